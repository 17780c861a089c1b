// The ways to tell the client where our server is: recipes J1 to J5.
import { createFalClient } from "@fal-ai/client";
import { once } from "node:events";

import { redirected } from "./places.mjs";

const base = process.env.FAL_LOCAL_BASE;
const credentials = process.env.FAL_KEY;
const requestMiddleware = async (request) => ({ ...request, url: redirected(request.url, base) });

async function serverProxy() {
  const { default: express } = await import("express");
  const { createHandler } = await import("@fal-ai/server-proxy/express");
  const app = express();
  app.use(express.json());
  const handler = createHandler({
    allowedUrlPatterns: [`${new URL(base).host}/**`],
    allowUnauthorizedRequests: true,
    allowedEndpoints: [],
  });
  app.all("/api/fal/proxy", (request, response) => handler(request, response, () => {}));
  const server = app.listen(0, "127.0.0.1");
  await once(server, "listening");
  server.unref();
  return `http://127.0.0.1:${server.address().port}/api/fal/proxy`;
}

export async function client(way) {
  switch (way) {
    case "J1": // by redirect-fetch.mjs
      return createFalClient({ credentials });
    case "J2":
      return createFalClient({ credentials, requestMiddleware });
    case "J3":
      return createFalClient({ credentials, proxyUrl: { url: `${base}/proxy`, when: "always" } });
    case "J4":
      return createFalClient({
        credentials,
        fetch: (input, init) => fetch(redirected(String(input), base), init),
      });
    case "J5":
      return createFalClient({
        credentials,
        requestMiddleware,
        proxyUrl: { url: await serverProxy(), when: "always" },
      });
  }
  throw new Error(way);
}
