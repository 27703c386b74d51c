// A table of many rows: sorted and filtered in memory, and shown a page at a time.

import { element } from "./dom.js";

const PAGE = 50;
const alphabet = new Intl.Collator();

/**
 * Make a table. `columns` are `{title, cell, sort?, class?}`; `caption` names it for screen readers.
 * Returns `{node, use(rows)}`.
 */
export function makeTable(caption, columns, empty) {
  let rows = [];
  let first = 0;
  let by = columns.findIndex((column) => column.sort);
  let isDown = false;
  const body = element("tbody");
  const heads = columns.map((column, place) =>
    element(
      "th",
      { scope: "col", class: column.class },
      column.sort
        ? element("button", { type: "button", onclick: () => sortBy(place) }, column.title)
        : column.title || element("span", { class: "unseen" }, "Actions"),
    ),
  );
  const range = element("span", {});
  const before = element("button", { type: "button", onclick: () => turn(-PAGE) }, "Previous");
  const after = element("button", { type: "button", onclick: () => turn(PAGE) }, "Next");
  const pages = element("div", { class: "pages" }, before, range, after);
  const node = element(
    "div",
    {},
    element(
      "div",
      { class: "scrolled", tabindex: "0", role: "region", "aria-label": caption },
      element("table", {}, element("caption", { class: "unseen" }, caption), element("thead", {}, element("tr", {}, heads)), body),
    ),
    pages,
  );

  function sortBy(place) {
    isDown = by === place ? !isDown : false;
    by = place;
    order();
    draw();
  }

  function order() {
    const value = columns[by]?.sort;
    if (!value) return;
    const sign = isDown ? -1 : 1;
    rows = rows
      .map((row) => [value(row), row])
      .sort(([a], [b]) => sign * (typeof a === "string" ? alphabet.compare(a, b) : a - b))
      .map(([, row]) => row);
  }

  function turn(step) {
    first = Math.max(0, Math.min(first + step, rows.length - 1));
    draw();
  }

  function draw() {
    heads.forEach((head, place) => {
      if (columns[place].sort) head.setAttribute("aria-sort", place !== by ? "none" : isDown ? "descending" : "ascending");
    });
    const shown = rows.slice(first, first + PAGE);
    body.replaceChildren(
      ...shown.map((row) =>
        element("tr", {}, columns.map((column) => element("td", { class: column.class, "data-title": column.title }, column.cell(row)))),
      ),
    );
    if (!shown.length) body.append(element("tr", {}, element("td", { colspan: columns.length, class: "empty" }, empty)));
    range.textContent = rows.length ? `${first + 1}–${first + shown.length} of ${rows.length}` : "";
    pages.hidden = rows.length <= PAGE;
    before.disabled = first === 0;
    after.disabled = first + PAGE >= rows.length;
  }

  return {
    node,
    use(all, { stay = false } = {}) {
      rows = [...all];
      if (!stay || first >= rows.length) first = 0;
      order();
      draw();
    },
  };
}
