// Whether the gateway is ready, and the state of all that it needs.

import { element, time } from "./dom.js";

const EVERY_MS = 5_000;
const EXPIRY = "gateway_tls_certificate_expiry_timestamp_seconds";

export function show(main) {
  const content = element("div", { class: "cards" });
  main.append(content);

  async function load() {
    try {
      const ready = await (await fetch("/readyz")).json();
      const metrics = await (await fetch("/metrics")).text();
      content.replaceChildren(...cards(ready, samples(metrics)));
    } catch {
      content.replaceChildren(element("p", { class: "problem", role: "alert" }, "The gateway does not answer."));
    }
  }

  load();
  const timer = window.setInterval(() => document.hidden || load(), EVERY_MS);
  return () => window.clearInterval(timer);
}

function cards(ready, metrics) {
  const certificates = metrics.filter((each) => each.name === EXPIRY);
  return [
    card("Gateway", [
      [mark(ready.status === "ready"), ready.status, ready.reasons.join("; ")],
      [mark(ready.workers.accepting >= ready.workers.wanted), `${ready.workers.accepting} of ${ready.workers.wanted} workers accept requests`, ""],
    ]),
    card(
      "Key stores",
      ready.stores.map((store) => [
        mark(store.up),
        store.location,
        [store.error, store.read_only && "read-only", store.revision !== null && `revision ${store.revision}`, store.last_sync_ms && ["read ", time(store.last_sync_ms)]],
      ]),
    ),
    card(
      "Backends",
      ready.backends.map((each) => [mark(each.up), `${each.backend}: ${each.address}`, each.up === null ? "no connection yet" : each.up ? "" : "cannot be reached"]),
    ),
    card(
      "Certificates",
      certificates.map((each) => {
        const at = each.value * 1000;
        return [mark(at - Date.now() > 14 * 86_400_000 ? true : at > Date.now() ? null : false), each.labels.address, ["expires ", time(at)]];
      }),
    ),
  ];
}

function card(title, rows) {
  const list = rows.map(([symbol, text, detail]) =>
    element("li", {}, symbol, element("div", {}, text, element("div", { class: "detail" }, joined(detail)))),
  );
  return element("section", { class: "card" }, element("h2", {}, title), list.length ? element("ul", {}, list) : element("p", { class: "hint" }, "None."));
}

function joined(detail) {
  const parts = (Array.isArray(detail) ? detail : [detail]).filter(Boolean);
  return parts.flatMap((part, place) => (place && !(part instanceof Node) && !Array.isArray(part) ? [" · ", part] : place ? [Array.isArray(part) ? " · " : "", part] : [part])).flat();
}

const mark = (isUp) =>
  element("span", { class: `mark ${isUp === null ? "unknown" : isUp ? "good" : "bad"}` }, isUp === null ? "?" : isUp ? "✓" : "✗", element("span", { class: "unseen" }, isUp === null ? "unknown" : isUp ? "fine" : "problem"));

/** Read the samples of a page in Prometheus' text format. */
function samples(text) {
  const found = [];
  for (const line of text.split("\n")) {
    const match = /^([a-z_:]+)(?:\{(.*)\})? ([^ ]+)/i.exec(line);
    if (!match) continue;
    const labels = Object.fromEntries([...(match[2] ?? "").matchAll(/([a-z_]+)="((?:[^"\\]|\\.)*)"/gi)].map(([, name, value]) => [name, value]));
    found.push({ name: match[1], labels, value: Number(match[3]) });
  }
  return found;
}
