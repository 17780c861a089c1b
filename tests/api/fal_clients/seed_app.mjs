// The calls of the model's own documentation, one after the other, by a client that is told its key
// and nothing else. Prints what it got.
import { fal } from "@fal-ai/client";

fal.config({ credentials: process.env.FAL_KEY });
const told = { lines: [] };

const subscribed = await fal.subscribe("fal-ai/stable-video", {
  input: {
    image_url: "https://storage.example/model_tests/svd/rocket.png",
  },
  logs: true,
  onQueueUpdate: (update) => {
    if (update.status === "IN_PROGRESS") {
      update.logs.map((log) => log.message).forEach((message) => told.lines.push(message));
    }
  },
});
told.subscribed = { data: subscribed.data, requestId: subscribed.requestId };

const { request_id } = await fal.queue.submit("fal-ai/stable-video", {
  input: {
    image_url: "https://storage.example/model_tests/svd/rocket.png",
  },
  webhookUrl: "https://optional.webhook.example/for/results",
});

do {
  told.status = await fal.queue.status("fal-ai/stable-video", {
    requestId: request_id,
    logs: true,
  });
} while (told.status.status !== "COMPLETED");

const result = await fal.queue.result("fal-ai/stable-video", {
  requestId: request_id,
});
told.result = { data: result.data, requestId: result.requestId };
told.submitted = request_id;

const file = new File(["Hello, World!"], "hello.txt", { type: "text/plain" });
told.url = await fal.storage.upload(file);

console.log(JSON.stringify(told));
