// Calls of the router, and its refusals in words.

const KEY = "lengthwise-api-key";

const storage = tabStorage();
let key = storage?.getItem(KEY) ?? ""; // kept as long as the tab

export const apiKey = () => key;

/** Whether another key may help. */
export const isKeyRefused = ({ status }) => status === 401 || status === 403;

export function useApiKey(given) {
  key = given.trim();
  if (key) storage?.setItem(KEY, key);
  else storage?.removeItem(KEY);
}

/** None where the browser is told to keep nothing. */
function tabStorage() {
  try {
    return sessionStorage;
  } catch {
    return null;
  }
}

/** What a person can do about it, and what the router said. */
export class Refusal extends Error {
  constructor(message, { status = 0, retrySeconds = 0 } = {}) {
    super(message);
    this.status = status;
    this.retrySeconds = retrySeconds;
  }
}

/** Errors: Refusal; AbortError where `signal` says so. */
export async function call(path, { body, signal, timeoutSeconds } = {}) {
  if (/[^\x21-\x7e]/.test(key)) throw new Refusal("The API key has characters that no key has.");
  const headers = key ? { authorization: `Bearer ${key}` } : {};
  if (body !== undefined) headers["content-type"] = "application/json";
  let response;
  try {
    response = await fetch(path, {
      method: body === undefined ? "GET" : "POST",
      body: body && JSON.stringify(body),
      headers,
      cache: "no-store",
      signal: timeoutSeconds ? AbortSignal.timeout(timeoutSeconds * 1000) : signal,
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refusal("The router does not answer. Does it run, and can this machine reach it?");
  }
  if (!response.ok) throw await refusal(response);
  return response;
}

/** Errors: as `call`. */
export async function readJson(path) {
  const response = await call(path, { timeoutSeconds: 10 });
  try {
    return await response.json();
  } catch {
    throw new Refusal("The router's answer broke off.");
  }
}

/** The events of a stream, until it says that it is done. Errors: as `call`. */
export async function* eventsOf(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) throw new Refusal("The answer broke off: the router closed the connection.");
      const lines = (rest + value).split("\n");
      rest = lines.pop();
      for (const line of lines) {
        if (!line.startsWith("data:")) continue; // empty, or a comment that keeps it alive
        const data = line.slice(5).trim();
        if (data === "[DONE]") return;
        const event = JSON.parse(data);
        if (event.error) throw new Refusal(`The answer ended early: ${event.error.message}`);
        yield event;
      }
    }
  } catch (error) {
    if (error instanceof Refusal || error.name === "AbortError") throw error;
    throw new Refusal("The answer broke off: the connection was lost.");
  } finally {
    reader.cancel().catch(() => {});
  }
}

async function refusal(response) {
  const said = await response.json().then((body) => body.error.message).catch(() => "");
  const { status } = response;
  const retrySeconds = Number(response.headers.get("retry-after")) || 0;
  const wait = retrySeconds ? `Try again in ${retrySeconds} s.` : "Try again soon.";
  const words = {
    401: "The router wants an API key that it knows: see Options.",
    403: "The router permits you less than that.",
    404: "The router knows nothing of it.",
    408: "It took too long.",
    413: "That is too long to be sent.",
    429: `Too many requests at the moment. ${wait}`,
    503: `The router cannot serve it now. ${wait}`,
  };
  const first = words[status] ?? (status >= 500 ? "The router has failed." : "");
  let message = said || `The router refused it (${status}).`;
  if (first) message = said ? `${first} The router says: ${said}` : first;
  return new Refusal(message, { status, retrySeconds });
}
