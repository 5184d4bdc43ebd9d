// Waits for a report, and becomes it. A plain link could not send the key; and the report brings a
// policy of its own, by which its scripts alone run.

import { ask } from "./api.js";
import { byId } from "./dom.js";
import { startTheme } from "./theme.js";
import { say, startLanguage } from "./words.js";

const REPORT = /^\/traces\/[\w-]+\/report\?[\w=&-]*$/;

async function read(path) {
  say(byId("said"), "report.working");
  for (;;) {
    try {
      return await (await ask(path)).text();
    } catch (error) {
      if (error.status !== 429) throw error;
      say(byId("said"), "report.waiting");
      await new Promise((resolve) => setTimeout(resolve, 1000 * (error.retryAfter || 5)));
    }
  }
}

startTheme(null);
startLanguage();
const path = new URLSearchParams(location.search).get("report") ?? "";
try {
  // Nothing but a report of this server is ever written here.
  if (!REPORT.test(path)) throw new Error("this is no address of a report");
  const page = await read(path);
  document.open();
  document.write(page);
  document.close();
} catch (error) {
  say(byId("said"), "proof.refused", { why: error.message }).className = "refused";
}
