// Building pages. Text is always set as text: nothing that a sender or a user wrote becomes markup.

/** Make an element: `attributes` may hold `on…` handlers and properties such as `value`. */
export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (["value", "checked", "disabled", "hidden"].includes(name)) made[name] = value;
    else made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.flat(3).filter((child) => child !== null && child !== undefined));
  return made;
}

/** Say something to everybody, screen readers included. */
export function announce(text) {
  const status = document.getElementById("status");
  status.textContent = "";
  window.clearTimeout(announce.timer);
  window.setTimeout(() => (status.textContent = text), 50);
  announce.timer = window.setTimeout(() => (status.textContent = ""), 8_000);
}

/** Open a dialog with a form; `submit` returns true to close it, or throws an error that is shown. */
export function openForm(title, fields, action, submit) {
  const problem = element("p", { class: "problem", role: "alert", hidden: true });
  const send = element("button", { type: "submit", class: "main" }, action);
  const form = element(
    "form",
    { method: "dialog" },
    fields,
    problem,
    element(
      "div",
      { class: "actions" },
      element("button", { type: "button", onclick: () => dialog.close() }, "Cancel"),
      send,
    ),
  );
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    problem.hidden = true;
    send.disabled = true;
    try {
      await submit(new FormData(form));
      dialog.close();
    } catch (error) {
      problem.textContent = error.message;
      problem.hidden = false;
    } finally {
      send.disabled = false;
    }
  });
  const dialog = openDialog(title, form);
  return dialog;
}

/** Open a dialog with a title and a content; it is removed when it closes. */
export function openDialog(title, ...content) {
  const id = `title-${crypto.randomUUID?.() ?? Math.random().toString(36).slice(2)}`;
  const dialog = element("dialog", { "aria-labelledby": id }, element("h2", { id }, title), content);
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
  return dialog;
}

/** A labelled field; `hint` is read with it. */
export function field(label, input, hint) {
  const id = `field-${label.toLowerCase().replaceAll(/[^a-z]+/g, "-")}`;
  input.id = id;
  if (hint) input.setAttribute("aria-describedby", `${id}-hint`);
  return element(
    "div",
    { class: "field" },
    element("label", { for: id }, label),
    input,
    hint ? element("p", { class: "hint", id: `${id}-hint` }, hint) : null,
  );
}

const shortTime = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });
const relative = new Intl.RelativeTimeFormat(undefined, { numeric: "auto" });
const UNITS = [["year", 31_536_000], ["month", 2_592_000], ["day", 86_400], ["hour", 3_600], ["minute", 60]];

/** A time as people say it, with the exact one as its title; "never" for none. */
export function time(milliseconds, none = "never") {
  if (!milliseconds) return none;
  const seconds = (milliseconds - Date.now()) / 1000;
  const unit = UNITS.find(([, length]) => Math.abs(seconds) >= length) ?? ["second", 1];
  const text = relative.format(Math.round(seconds / unit[1]), unit[0]);
  const at = new Date(milliseconds);
  return element("time", { datetime: at.toISOString(), title: shortTime.format(at) }, text);
}

const counts = new Intl.NumberFormat(undefined, { notation: "compact", maximumFractionDigits: 1 });

/** A number in few characters: 1.2M. */
export const count = (number) => counts.format(number ?? 0);

/** A number of bytes in few characters. */
export function bytes(number) {
  let left = number ?? 0;
  for (const unit of ["B", "kB", "MB", "GB", "TB"]) {
    if (left < 1000 || unit === "TB") return `${left < 10 && unit !== "B" ? left.toFixed(1) : Math.round(left)} ${unit}`;
    left /= 1000;
  }
}
