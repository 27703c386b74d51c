// API keys: the list, and what can be done with them.

import { call, KEYS } from "./api.js";
import { announce, bytes, count, element, field, openDialog, openForm, time } from "./dom.js";
import { copy, snippets } from "./snippets.js";
import { makeTable } from "./table.js";
import { tenancyFields, tenancyOf, tenancyText } from "./tenancy.js";

const SIGNALS = ["traces", "metrics", "logs", "profiles", "intake"];
const SOON_MS = 14 * 86_400_000;
const EVERY_MS = 15_000;
const EVERY_MS_PER_KEY = 5;

const STATES = {
  all: ["All keys", () => true],
  active: ["Active", (key) => state(key) === "active" || state(key) === "expires soon"],
  soon: ["Expire within 14 days", (key) => state(key) === "expires soon"],
  expired: ["Expired", (key) => state(key) === "expired"],
  disabled: ["Disabled", (key) => state(key) === "disabled"],
  unused: ["Never used", (key) => !key.lastUsedTimestamp],
};

function state(key) {
  if (!key.enabled) return "disabled";
  if (!key.expiration) return "active";
  const left = key.expiration - Date.now();
  return left <= 0 ? "expired" : left < SOON_MS ? "expires soon" : "active";
}

/** What the search looks through. */
const searchText = (key) => `${key.name} ${key.description ?? ""} ${key.id} ${tenancyText(key).join(" ")}`.toLowerCase();

export function show(main, { role }) {
  const mayChange = role !== "reader";
  let all = [];
  let texts = new Map();
  const search = element("input", { type: "search", oninput: draw, placeholder: "Name, owner, label, description or id" });
  const filter = element(
    "select",
    { onchange: draw },
    Object.entries(STATES).map(([value, [text]]) => element("option", { value }, text)),
  );
  const problem = element("p", { class: "problem", role: "alert", hidden: true });
  const table = makeTable(
    "API keys",
    [
      { title: "Name", sort: (key) => key.name, cell: nameCell },
      { title: "State", sort: state, cell: (key) => element("span", { class: `state ${state(key).replaceAll(" ", "-")}` }, state(key)) },
      { title: "Last used", sort: (key) => key.lastUsedTimestamp ?? 0, cell: (key) => time(key.lastUsedTimestamp) },
      { title: "Requests", class: "number", sort: (key) => key.usage?.requests ?? 0, cell: (key) => count(key.usage?.requests) },
      { title: "Data", class: "number", sort: (key) => key.usage?.bytes ?? 0, cell: (key) => bytes(key.usage?.bytes) },
      { title: "Refused", class: "number", sort: (key) => key.usage?.refusals ?? 0, cell: (key) => count(key.usage?.refusals) },
      { title: "Expires", sort: (key) => key.expiration ?? Infinity, cell: (key) => time(key.expiration) },
      ...(mayChange ? [{ title: "", class: "buttons", cell: buttons }] : []),
    ],
    "No API key matches.",
  );
  main.append(
    element(
      "div",
      { class: "tools" },
      element("label", {}, "Search ", search),
      element("label", {}, "Show ", filter),
      mayChange ? element("button", { type: "button", class: "main", onclick: create }, "Create a key") : null,
    ),
    problem,
    table.node,
  );

  function nameCell(key) {
    const details = [key.description, ...tenancyText(key), key.signals && `only ${key.signals.join(", ")}`].filter(Boolean);
    return [element("strong", {}, key.name), details.map((each) => element("div", { class: "detail" }, each))];
  }

  function buttons(key) {
    const button = (text, act) => element("button", { type: "button", "aria-label": `${text} ${key.name}`, onclick: () => act(key) }, text);
    return [button("Edit", edit), button("Rotate", rotate), button("Delete", remove)];
  }

  function draw(options) {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const [, isShown] = STATES[filter.value];
    const matches = (key) => words.every((word) => texts.get(key).includes(word));
    table.use(all.filter((key) => isShown(key) && matches(key)), { stay: options?.stay === true });
  }

  async function load(options) {
    try {
      all = (await call("GET", KEYS)).value;
      texts = new Map(all.map((key) => [key, searchText(key)]));
      problem.hidden = true;
    } catch (error) {
      problem.textContent = error.message;
      problem.hidden = false;
    }
    draw(options);
  }

  /** Say what was done and load the keys, which the form does not wait for: there may be many. */
  async function changed(text, confirmed) {
    announce(confirmed ? text : `${text} Not all gateways have confirmed it yet.`);
    await load({ stay: true });
  }

  function create() {
    openForm("Create a key", [...specFields({}), expiryField()], "Create", async (form) => {
      const made = await call("POST", KEYS, { ...specOf(form), ...tenancyOf(form), ...expiryOf(form) });
      await showKey("The new key", made.value);
      changed(`The key ${made.value.name} works now.`, made.confirmed);
    });
  }

  function edit(key) {
    const enabled = element("input", { type: "checkbox", name: "enabled", checked: key.enabled });
    const switchField = element("label", { class: "check" }, enabled, "Enabled: a disabled key is refused until you enable it again");
    openForm(`Edit ${key.name}`, [...specFields(key), switchField], "Save", async (form) => {
      const spec = { description: null, signals: null, limits: null, ...specOf(form), ...tenancyOf(form, key), enabled: enabled.checked };
      const done = await call("PATCH", `${KEYS}/${key.id}`, spec);
      changed(`${done.value.name} is saved.`, done.confirmed);
    });
  }

  function rotate(key) {
    const overlap = element("input", { type: "number", name: "overlap", min: 0, max: 8784, value: 24, required: true });
    const fields = [
      element("p", {}, "A new key with the same settings is made. Both work for some time, so that no sender loses data."),
      field("Hours that the old key works on", overlap, "Put the new key into the senders within this time. 0 refuses the old key at once."),
    ];
    openForm(`Rotate ${key.name}`, fields, "Rotate", async (form) => {
      const body = { overlap: Math.round(Number(form.get("overlap")) * 3_600_000) };
      const done = await call("POST", `${KEYS}/${key.id}/rotate`, body);
      await showKey("The new key", done.value);
      changed(`${key.name} is rotated.`, done.confirmed);
    });
  }

  function remove(key) {
    const text = `Senders that use ${key.name} are refused from now on, and drop their data. This cannot be undone.`;
    openForm(`Delete ${key.name}?`, [element("p", {}, text)], "Delete", async () => {
      const done = await call("DELETE", `${KEYS}/${key.id}`);
      changed(`${key.name} is deleted.`, done.confirmed);
    });
  }

  let timer = null;
  let isGone = false;

  /** Load the keys again from time to time: many of them less often. */
  async function keepFresh() {
    if (!document.hidden && !document.querySelector("dialog")) await load({ stay: true });
    if (!isGone) timer = window.setTimeout(keepFresh, EVERY_MS + all.length * EVERY_MS_PER_KEY);
  }

  keepFresh();
  return () => {
    isGone = true;
    window.clearTimeout(timer);
  };
}

async function showKey(title, made) {
  const shown = openDialog(
    title,
    element("p", {}, element("strong", {}, "Copy it now: it is shown only this once.")),
    element("p", { class: "key" }, element("code", { id: "new-key" }, made.apiKey)),
    element("button", { type: "button", onclick: () => copy(made.apiKey) }, "Copy the key"),
    await snippets(made.apiKey),
    element("div", { class: "actions" }, element("button", { type: "button", class: "main", onclick: () => shown.close() }, "I have stored the key")),
  );
  return shown;
}

const LIMITS = {
  requests: "Requests per second",
  bytes: "Bytes per second",
  concurrent: "Requests at once",
  requestsPerDay: "Requests per day",
  bytesPerDay: "Bytes per day",
  requestsPerMonth: "Requests per month",
  bytesPerMonth: "Bytes per month",
};

function specFields(key) {
  const limit = (name) => element("input", { type: "number", name, min: 0, value: key.limits?.[name] ?? "" });
  return [
    field("Name", element("input", { name: "name", required: true, maxlength: 255, value: key.name ?? "" }), "Who sends with it, such as collector-eu"),
    field("Description", element("input", { name: "description", value: key.description ?? "" })),
    element(
      "fieldset",
      {},
      element("legend", {}, "What it may send (none selected: everything)"),
      SIGNALS.map((each) =>
        element("label", { class: "check" }, element("input", { type: "checkbox", name: "signals", value: each, checked: key.signals?.includes(each) ?? false }), each),
      ),
    ),
    ...tenancyFields(key),
    element(
      "details",
      { open: Boolean(key.limits) },
      element("summary", {}, "Limits of its own"),
      Object.entries(LIMITS).map(([name, label]) => field(label, limit(name))),
      element("p", {}, "Empty: the gateway's limits. 0: no limit. Days and months are those of UTC."),
    ),
  ];
}

function specOf(form) {
  const spec = { name: form.get("name") };
  if (form.get("description")) spec.description = form.get("description");
  if (form.getAll("signals").length) spec.signals = form.getAll("signals");
  const names = Object.keys(LIMITS);
  if (names.some((name) => form.get(name)))
    spec.limits = Object.fromEntries(names.map((name) => [name, form.get(name) ? Number(form.get(name)) : null]));
  return spec;
}

const expiryField = () =>
  field("Expires", element("input", { type: "datetime-local", name: "expires" }), "Empty: never");

const expiryOf = (form) => (form.get("expires") ? { expiration: new Date(form.get("expires")).getTime() } : {});
