// Recipe J1: loaded before a program (node --import), leads what it asks of fal's hosts to
// FAL_LOCAL_BASE. The program itself knows nothing of it.
import { redirected } from "./places.mjs";

const original = globalThis.fetch;
globalThis.fetch = (input, init) =>
  typeof input === "string" || input instanceof URL
    ? original(redirected(String(input), process.env.FAL_LOCAL_BASE), init)
    : original(input, init);
