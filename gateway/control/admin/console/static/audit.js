// Who changed which key, when and from where.

import { AUDIT, call } from "./api.js";
import { element, time } from "./dom.js";

const PAGE = 100;

export function show(main) {
  const body = element("tbody");
  const problem = element("p", { class: "problem", role: "alert", hidden: true });
  const more = element("button", { type: "button", onclick: load, hidden: true }, "Show older changes");
  let before = null;
  main.append(
    problem,
    element(
      "div",
      { class: "scrolled", tabindex: "0", role: "region", "aria-label": "Changes" },
      element(
        "table",
        {},
        element("caption", { class: "unseen" }, "Changes of keys, newest first"),
        element("thead", {}, element("tr", {}, ["Time", "Change", "Key", "Who", "From", "Details"].map((each) => element("th", { scope: "col" }, each)))),
        body,
      ),
    ),
    more,
  );

  async function load() {
    try {
      const query = new URLSearchParams({ limit: PAGE, ...(before ? { before } : {}) });
      const { value } = await call("GET", `${AUDIT}?${query}`);
      body.append(...value.map(row));
      if (!body.children.length) body.append(element("tr", {}, element("td", { colspan: 6, class: "empty" }, "No change yet.")));
      before = value.at(-1)?.id;
      more.hidden = value.length < PAGE;
    } catch (error) {
      problem.textContent = error.message;
      problem.hidden = false;
    }
  }

  load();
}

function row(entry) {
  const changes = Object.entries(entry.changes).map(([name, value]) => `${name}: ${typeof value === "object" ? JSON.stringify(value) : value}`);
  return element(
    "tr",
    {},
    element("td", {}, time(entry.timestamp)),
    element("td", {}, entry.action),
    element("td", {}, entry.keyName, element("div", { class: "detail" }, `id ${entry.keyId}`)),
    element("td", {}, entry.who || "–"),
    element("td", {}, entry.origin || "–"),
    element("td", {}, changes.join("; ")),
  );
}
