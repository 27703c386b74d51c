// What to paste into a sender's configuration, with a new key in it.

import { call } from "./api.js";
import { announce, element } from "./dom.js";

/** Return where senders reach the gateway: `{grpc, http, secure}` with host:port. */
async function endpoints() {
  const found = { grpc: `${location.hostname}:4317`, http: `${location.hostname}:4318`, secure: false };
  try {
    const { value } = await call("GET", "/-/config");
    const listeners = value.listen.map((each) => ({ port: each.address.split(":").at(-1), tls: Boolean(each.tls) }));
    const at = (port) => listeners.find((each) => each.port === port) ?? listeners[0];
    found.grpc = `${location.hostname}:${at("4317").port}`;
    found.http = `${location.hostname}:${at("4318").port}`;
    found.secure = at("4317").tls;
  } catch {
    // Without the right to read the configuration, the usual ports are a good guess.
  }
  return found;
}

const TEXTS = {
  Collector: ({ grpc, secure }, key) =>
    secure
      ? `extensions:
  bearertokenauth:
    scheme: StackState
    token: "${key}"
exporters:
  otlp/stackstate:
    endpoint: ${grpc}
    auth: {authenticator: bearertokenauth}
service:
  extensions: [bearertokenauth]
`
      : `exporters:
  otlp/stackstate:
    endpoint: ${grpc}
    tls: {insecure: true}
    # Without TLS, gRPC in Go refuses to send the token of an extension.
    headers: {Authorization: "StackState ${key}"}
`,
  SDK: ({ http, secure }, key) => `export OTEL_EXPORTER_OTLP_ENDPOINT=${secure ? "https" : "http"}://${http}
export OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf
export OTEL_EXPORTER_OTLP_HEADERS='Authorization=StackState%20${key}'
`,
  Agent: ({ http, secure }, key) => `export STS_STS_URL=${secure ? "https" : "http"}://${http}/receiver/stsAgent
export STS_API_KEY=${key}
`,
  Prometheus: ({ http, secure }, key) => `remote_write:
  - url: ${secure ? "https" : "http"}://${http}/receiver/prometheus/api/v1/write
    basic_auth: {username: apikey, password: "${key}"}
`,
  curl: ({ http, secure }, key) => `curl -i ${secure ? "https" : "http"}://${http}/v1/traces \\
  -H 'Authorization: StackState ${key}' -H 'Content-Type: application/json' -d '{}'
`,
};

/** Make the texts for a key, one of which is shown at a time. */
export async function snippets(key) {
  const where = await endpoints();
  const text = element("code");
  const box = element("pre", { tabindex: "0", "aria-label": "Configuration" }, text);
  const choice = element("select", { onchange: () => draw() }, Object.keys(TEXTS).map((each) => element("option", {}, each)));
  const draw = () => (text.textContent = TEXTS[choice.value](where, key));
  draw();
  return element(
    "div",
    { class: "snippet" },
    element("label", {}, "Configuration for ", choice),
    box,
    element("button", { type: "button", onclick: () => copy(text.textContent) }, "Copy the configuration"),
    element("p", { class: "hint" }, "The host is the one that this page came from: change it if senders use another one."),
  );
}

/** Put a text on the clipboard, and say so. */
export async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    announce("Copied");
  } catch {
    announce("The browser does not allow copying here: select the text and copy it");
  }
}
