// Whose data a key sends: its owner, its labels, and the headers that the backend gets.

import { element, field } from "./dom.js";

/** What is known of it, for people: one text for each kind. */
export function tenancyText(key) {
  const labels = Object.entries(key.labels ?? {}).map(([name, value]) => `${name}=${value}`);
  const headers = Object.entries(key.headers ?? {}).map(([name, value]) => `${name}: ${value}`);
  return [key.owner && `owner ${key.owner}`, labels.join(", "), headers.join(", ")].filter(Boolean);
}

/** The fields of a form. */
export function tenancyFields(key) {
  const lines = (name, map, join) =>
    element("textarea", { name, rows: 3, spellcheck: "false", value: Object.entries(map ?? {}).map((pair) => pair.join(join)).join("\n") });
  return [
    element(
      "details",
      { open: Boolean(key.owner || key.labels || key.headers) },
      element("summary", {}, "Whose data it is"),
      field("Owner", element("input", { name: "owner", value: key.owner ?? "" }), "Who answers for the sender, such as Team A"),
      field("Labels", lines("labels", key.labels, "="), "One a line, such as team=a"),
      field("Headers", lines("headers", key.headers, ": "), "Headers that the backend gets with this key\u2019s requests. One a line, such as X-Scope-OrgID: team-a"),
    ),
  ];
}

/** What a form says; with the `key` before, also what is taken away from it. Throws an `Error` in words. */
export function tenancyOf(form, key) {
  const spec = {};
  const owner = form.get("owner").trim();
  if (owner || key?.owner) spec.owner = owner || null;
  for (const [name, sign, example] of [["labels", "=", "team=a"], ["headers", ":", "X-Scope-OrgID: team-a"]]) {
    const map = readLines(form.get(name), sign, `${name}: write one a line, as in ${example}`);
    const before = Object.keys(key?.[name] ?? {});
    const gone = before.filter((each) => !Object.hasOwn(map, each));
    if (Object.keys(map).length || gone.length) {
      spec[name] = { ...map, ...Object.fromEntries(gone.map((each) => [each, null])) };
    }
  }
  return spec;
}

function readLines(text, sign, help) {
  const map = {};
  for (const line of text.split("\n").map((each) => each.trim()).filter(Boolean)) {
    const at = line.indexOf(sign);
    if (at < 1) throw new Error(`\u201c${line}\u201d has no ${sign}. ${help}`);
    const name = line.slice(0, at).trim();
    if (Object.hasOwn(map, name)) throw new Error(`${name} is there twice. ${help}`);
    map[name] = line.slice(at + 1).trim();
  }
  return map;
}
