// Requests to the gateway, as whoever is signed in.

export const KEYS = "/api/security/ingestion/api_keys";
export const AUDIT = "/api/security/ingestion/audit";

let session = null;
let signedOut = () => {};

/** What the gateway refused, in its own words. */
export class ApiError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/** Call `handler` when a request shows that the session is over. */
export function onSignedOut(handler) {
  signedOut = handler;
}

/** Return who is signed in, or null. */
export async function currentSession() {
  const found = await (await fetch("/ui/session")).json();
  session = found.who === null ? null : found;
  return session;
}

/** Sign in with an admin token. Throws `ApiError`. */
export async function signIn(token) {
  session = await answer(await fetch("/ui/session", { method: "POST", body: JSON.stringify({ token }) }));
  return session;
}

/** Sign out. */
export async function signOut() {
  await fetch("/ui/session", { method: "DELETE" });
  session = null;
}

/** Send a request; return the response. Throws `ApiError`. */
export async function send(method, path, body, signal) {
  const headers = session ? { [session.proofField]: session.proof } : {};
  let response;
  try {
    response = await fetch(path, { method, headers, signal, body: body && JSON.stringify(body) });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, "The gateway does not answer. Try again.");
  }
  if (response.status === 401) {
    session = null;
    signedOut();
  }
  return response;
}

/** Send a request; return the JSON of the response, and whether all gateways confirmed a change. */
export async function call(method, path, body) {
  const response = await send(method, path, body);
  const value = await answer(response);
  return { value, confirmed: response.headers.get("X-Gateway-Confirmed") !== "false" };
}

async function answer(response) {
  const text = await response.text();
  let value = null;
  try {
    value = text ? JSON.parse(text) : null;
  } catch {
    throw new ApiError(response.status, `The response is not the gateway's (${response.status}).`);
  }
  if (response.ok) return value;
  const message = value?.message ?? value?.errors?.[0]?.message ?? value?.error;
  throw new ApiError(response.status, message ?? `The gateway answered ${response.status}.`);
}
