// The frame of the console: signing in, the pages, and which one is shown.

import { currentSession, onSignedOut, signIn, signOut } from "./api.js";
import { element, field } from "./dom.js";
import * as audit from "./audit.js";
import * as decisions from "./decisions.js";
import * as health from "./health.js";
import * as keys from "./keys.js";

const PAGES = [
  ["keys", "Keys", keys],
  ["decisions", "Live decisions", decisions],
  ["health", "Health", health],
  ["audit", "Audit log", audit],
];
const top = document.getElementById("top");
const main = document.getElementById("main");
let session = null;
let leave = () => {};

function show() {
  leave();
  leave = () => {};
  if (!session) return showSignIn();
  const [name, title, page] = PAGES.find(([each]) => location.hash === `#/${each}`) ?? PAGES[0];
  document.title = `${title} · Gateway console`;
  top.replaceChildren(
    element("span", { class: "brand" }, element("img", { src: "icon.svg", alt: "" }), "Gateway"),
    element(
      "nav",
      { "aria-label": "Pages" },
      PAGES.map(([each, text]) =>
        element("a", { href: `#/${each}`, "aria-current": each === name ? "page" : null }, text),
      ),
    ),
    element(
      "span",
      { class: "who" },
      element("span", { title: "The admin token that you are signed in with" }, session.who),
      Object.entries(session.labels).map(([name, value]) =>
        element("span", { class: "scope", title: "You manage the keys with this label" }, `${name}=${value}`),
      ),
      element("button", { type: "button", onclick: leaveConsole }, "Sign out"),
    ),
  );
  main.replaceChildren(element("h1", {}, title));
  leave = page.show(main, session) ?? (() => {});
}

function showSignIn(problem) {
  document.title = "Sign in · Gateway console";
  top.replaceChildren(
    element("span", { class: "brand" }, element("img", { src: "icon.svg", alt: "" }), "Gateway"),
  );
  const token = element("input", { type: "password", required: true, autocomplete: "current-password", spellcheck: "false" });
  const failed = element("p", { class: "problem", role: "alert", hidden: !problem }, problem ?? "");
  const form = element(
    "form",
    { class: "sign-in" },
    element("h1", {}, "Sign in"),
    field(
      "Admin token",
      token,
      "One of admin.tokens, or the content of the file admin-token in the gateway's state directory.",
    ),
    failed,
    element("button", { type: "submit", class: "main" }, "Sign in"),
  );
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    try {
      session = await signIn(token.value.trim());
      show();
      main.focus();
    } catch (error) {
      failed.textContent = error.message;
      failed.hidden = false;
      token.select();
    }
  });
  main.replaceChildren(form);
  token.focus();
}

async function leaveConsole() {
  await signOut();
  session = null;
  show();
}

onSignedOut(() => {
  session = null;
  leave();
  leave = () => {};
  document.querySelectorAll("dialog").forEach((dialog) => dialog.close());
  showSignIn("You are signed out: the session is over, or its token was removed.");
});
window.addEventListener("hashchange", () => {
  show();
  main.focus();
});
session = await currentSession();
show();
