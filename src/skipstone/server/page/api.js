// The server, as the page asks it. The key is kept for this tab alone.

const KEY = "skipstone.key";

export const keepKey = (key) => sessionStorage.setItem(KEY, key);

/** What the server refuses, in its own sentence. */
export class Refusal extends Error {
  /** @param {number} status of HTTP; 0: the server was not reached. */
  constructor(status, message, retryAfter = 0) {
    super(message);
    this.status = status;
    this.retryAfter = retryAfter;
  }
}

/**
 * An answer that is none of an error.
 * @param {string} path @param {object} [body] sent as JSON; without one the path is only read.
 */
export async function ask(path, body, signal) {
  const key = sessionStorage.getItem(KEY);
  const headers = key ? { authorization: `Bearer ${key}` } : {};
  if (body) headers["content-type"] = "application/json";
  const sent = { method: body ? "POST" : "GET", body: body && JSON.stringify(body), headers, signal };
  let answer;
  try {
    answer = await fetch(path, sent);
  } catch (error) {
    // A key with a letter that no header takes ends here, too; its message says so.
    throw signal?.aborted ? error : new Refusal(0, error.message);
  }
  if (answer.ok) return answer;
  const retryAfter = Number(answer.headers.get("retry-after")) || 0;
  const said = await answer.json().catch(() => null);
  throw new Refusal(answer.status, said?.error?.message ?? `HTTP ${answer.status}`, retryAfter);
}

/** The chunks of a streamed answer, as they come; an error in the stream is thrown. */
export async function* stream(path, body, signal) {
  const answer = await ask(path, body, signal);
  let rest = "";
  for await (const text of texts(answer.body)) {
    const events = (rest + text).split("\n\n");
    rest = events.pop();
    for (const event of events) {
      const data = event.replace(/^data: /, "");
      if (data === "[DONE]") return;
      const chunk = JSON.parse(data);
      if (chunk.error) throw new Refusal(answer.status, chunk.error.message);
      yield chunk;
    }
  }
  throw new Refusal(0, "the stream ended before its end");
}

// Not every browser lets `for await` read a body.
async function* texts(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  try {
    for (let part = await reader.read(); !part.done; part = await reader.read()) yield part.value;
  } finally {
    reader.cancel().catch(() => {});
  }
}
