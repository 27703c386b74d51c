// Requests as they complete, and what to do about those that are refused.

import { ApiError, send } from "./api.js";
import { bytes, element } from "./dom.js";

const KEPT = 200;
const AGAIN_MS = 2_000;

export function show(main, { advice }) {
  let lines = [];
  let stop = new AbortController();
  const peer = element("input", { placeholder: "10.1.2.3 or 10.0.0.0/8" });
  const keyId = element("input", { inputmode: "numeric", placeholder: "any" });
  const only = element("select", { onchange: draw }, element("option", { value: "" }, "All requests"), element("option", { value: "refused" }, "Only refused"));
  const said = element("p", { class: "hint", role: "status" });
  const body = element("tbody");
  const watch = element("button", { type: "button", class: "main", onclick: begin }, "Watch");
  const pause = element("button", { type: "button", onclick: () => stop.abort() }, "Stop");
  main.append(
    element(
      "form",
      { class: "tools", onsubmit: (event) => event.preventDefault() },
      element("label", {}, "Sender's address ", peer),
      element("label", {}, "Key's id ", keyId),
      element("label", {}, "Show ", only),
      watch,
      pause,
    ),
    said,
    element(
      "div",
      { class: "scrolled", tabindex: "0", role: "region", "aria-label": "Requests" },
      element(
        "table",
        {},
        element("caption", { class: "unseen" }, "Requests, newest first"),
        element("thead", {}, element("tr", {}, ["Time", "Sender", "What", "Key", "Outcome", "Data", "Took"].map((each) => element("th", { scope: "col" }, each)))),
        body,
      ),
    ),
  );

  async function begin() {
    stop.abort();
    const own = (stop = new AbortController());
    const query = new URLSearchParams({ for: "1h" });
    if (peer.value.trim()) query.set("peer", peer.value.trim());
    if (keyId.value.trim()) query.set("key_id", keyId.value.trim());
    lines = [];
    draw();
    try {
      while (!own.signal.aborted) {
        await follow(`/-/trace?${query}`, own.signal);
        await new Promise((resolve) => window.setTimeout(resolve, AGAIN_MS));
      }
    } catch (error) {
      said.textContent = error.name === "AbortError" ? "Stopped." : error.message;
    }
  }

  async function follow(path, signal) {
    const response = await send("POST", path, undefined, signal);
    if (!response.ok) throw new ApiError(response.status, (await response.json()).error);
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const parts = (rest + value).split("\n");
      rest = parts.pop();
      parts.filter(Boolean).map((each) => JSON.parse(each)).forEach(take);
      draw();
    }
  }

  function take(line) {
    if (line.watching !== undefined) said.textContent = line.watching ? "Watching. Requests appear when they complete." : "Not all workers report their requests yet.";
    else if (line.dropped !== undefined) said.textContent = `Too many requests to show: ${line.dropped} were left out.`;
    else lines = [line, ...lines].slice(0, KEPT);
  }

  function draw() {
    const shown = only.value ? lines.filter((line) => line.result !== "accepted") : lines;
    body.replaceChildren(...shown.map(row));
    if (!shown.length) body.append(element("tr", {}, element("td", { colspan: 7, class: "empty" }, "No request yet.")));
  }

  function row(line) {
    const name = line.outcome && line.outcome !== "allowed" ? line.outcome : line.result;
    const texts = advice[name] ?? [];
    const what = texts.length
      ? element("details", {}, element("summary", {}, name), element("ul", {}, texts.map((each) => element("li", {}, each))))
      : name;
    return element(
      "tr",
      {},
      element("td", {}, element("time", { datetime: line.time, title: line.time }, new Date(line.time).toLocaleTimeString())),
      element("td", {}, line.peer),
      element("td", {}, [line.signal, line.protocol].filter(Boolean).join(" over ")),
      element("td", {}, line.key_id ?? "–"),
      element("td", { class: line.result === "accepted" ? "good" : "bad" }, what, line.code ? element("div", { class: "detail" }, `answered ${line.code}`) : null),
      element("td", { class: "number" }, bytes(line.bytes)),
      element("td", { class: "number" }, `${line.duration_ms} ms`),
    );
  }

  begin();
  return () => stop.abort();
}
