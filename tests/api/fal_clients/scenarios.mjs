// node scenarios.mjs WAY SCENARIO PHOTO: does what users do and prints what came of it.
import { ApiError, ValidationError } from "@fal-ai/client";
import { readFile } from "node:fs/promises";

import { client } from "./ways.mjs";

const app = "fal-ai/stable-video";
const [way, scenario, path] = process.argv.slice(2);
const fal = await client(way);
const bytes = await readFile(path);
const uri = `data:image/png;base64,${bytes.toString("base64")}`;
const unknown = "764cabcf-b745-4b3e-ae38-1200304cf45b";

async function failure(call) {
  try {
    await call();
  } catch (error) {
    if (!(error instanceof ApiError)) return { other: String(error) };
    return {
      validation: error instanceof ValidationError,
      status: error.status,
      body: error.body,
      requestId: error.requestId,
      isUserTimeout: error.isUserTimeout,
      fps: error instanceof ValidationError ? error.getFieldErrors("fps").length : undefined,
    };
  }
  return { none: true };
}

async function subscribed(options) {
  const states = [];
  const logs = [];
  const result = await fal.subscribe(app, {
    input: { image_url: uri, seed: 21 },
    logs: true,
    pollInterval: 30,
    onQueueUpdate: (update) => {
      if (states.at(-1) !== update.status) states.push(update.status);
      if (update.logs) logs.push(update.logs.map((line) => line.message));
    },
    ...options,
  });
  return { ...result, states, logs };
}

const scenarios = {
  async happy() {
    const told = { polled: await subscribed({}), streamed: await subscribed({ mode: "streaming" }) };
    const submitted = await fal.queue.submit(app, { input: { image_url: uri, seed: 22 } });
    const requestId = submitted.request_id;
    await fal.queue.subscribeToStatus(app, { requestId, pollInterval: 30 });
    told.submitted = submitted;
    told.status = await fal.queue.status(app, { requestId, logs: true });
    told.result = await fal.queue.result(app, { requestId });
    told.run = await fal.run(app, { input: { image_url: uri, seed: 23 } });
    const stream = await fal.stream(app, { input: { image_url: uri, seed: 24 } });
    told.stream = [];
    for await (const piece of stream) told.stream.push(piece);
    told.done = await stream.done();
    return told;
  },

  async uploads() {
    const file = new File([bytes], "photo.png", { type: "image/png" });
    const url = await fal.storage.upload(file);
    const back = Buffer.from(await (await fetch(url)).arrayBuffer());
    const nameless = await fal.storage.upload(new Blob([bytes], { type: "image/png" }));
    const short = await fal.storage.upload(file, { lifecycle: { expiresIn: "1h" } });
    const by = async (image_url) => (await fal.run(app, { input: { image_url, seed: 25 } })).data.seed;
    return {
      same: back.equals(bytes), url, nameless, short,
      byUrl: await by(url), byBlob: await by(new Blob([bytes], { type: "image/png" })),
    };
  },

  async big() {
    const part = new Uint8Array(10 * 1024 * 1024);
    const parts = [...Array(9).keys()].map((number) => part.slice().fill(number));
    const file = new File([...parts, "end"], "big.png", { type: "image/png" });
    const url = await fal.storage.upload(file);
    const back = new Uint8Array(await (await fetch(url)).arrayBuffer());
    const same = back.length === file.size && parts.every((one, number) => {
      const at = number * one.length;
      return back[at] === number && back[at + one.length - 1] === number;
    });
    return { url, same };
  },

  async errors() {
    const wrong = { input: { image_url: uri, fps: 500 } };
    const gone = { input: { image_url: "http://127.0.0.1:9/photo.png" } };
    const { requestId } = await fal.run(app, { input: { image_url: uri } });
    return {
      run: await failure(() => fal.run(app, wrong)),
      subscribe: await failure(() => fal.subscribe(app, { ...wrong, pollInterval: 30 })),
      stream: await failure(async () => (await fal.stream(app, wrong)).done()),
      buffer: await failure(() => fal.run(app, { input: { image_url: bytes } })),
      empty: await failure(() => fal.subscribe(app, { pollInterval: 30 })),
      gone: await failure(() => fal.subscribe(app, { ...gone, pollInterval: 30 })),
      other: await failure(() => fal.run("fal-ai/other", { input: {} })),
      status: await failure(() => fal.queue.status(app, { requestId: unknown })),
      result: await failure(() => fal.queue.result(app, { requestId: unknown })),
      cancel: await failure(() => fal.queue.cancel(app, { requestId: unknown })),
      late: await failure(() => fal.queue.cancel(app, { requestId })),
    };
  },

  async key() {
    return failure(() => fal.queue.submit(app, { input: { image_url: uri } }));
  },

  // While the work is held at its second step.
  async held() {
    const submit = (more) => fal.queue.submit(app, { input: { image_url: uri }, ...more });
    const { request_id: running } = await submit({});
    let status;
    do status = await fal.queue.status(app, { requestId: running, logs: true });
    while (status.status !== "IN_PROGRESS" || status.logs.length < 2);
    const { request_id: waiting } = await submit({ priority: "low", hint: "any" });
    const late = await submit({ startTimeout: 1.1 });
    const told = {
      early: await failure(() => fal.queue.result(app, { requestId: running })),
      place: (await fal.queue.status(app, { requestId: waiting })).queue_position,
      running, waiting, late: late.request_id,
    };
    await fal.queue.subscribeToStatus(app, { requestId: late.request_id, pollInterval: 50 });
    told.timeout = await failure(() => fal.queue.result(app, { requestId: late.request_id }));
    await fal.queue.cancel(app, { requestId: waiting });
    await fal.queue.cancel(app, { requestId: running });
    await fal.queue.subscribeToStatus(app, { requestId: running, pollInterval: 30 });
    told.cancelled = [];
    for (const requestId of [waiting, running]) {
      told.cancelled.push(await failure(() => fal.queue.result(app, { requestId })));
    }
    told.impatient = await failure(() =>
      fal.subscribe(app, { input: { image_url: uri }, timeout: 300, pollInterval: 30 }));
    return told;
  },

  async client() {
    const stream = await fal.stream(app, {
      input: { image_url: uri, seed: 26 },
      connectionMode: "client",
    });
    const told = { seed: (await stream.done()).seed };
    const options = { mode: "streaming", connectionMode: "client" };
    return { ...told, watched: (await subscribed(options)).states.at(-1) };
  },
};

console.log(JSON.stringify(await scenarios[scenario]()));
process.exit(); // connections that are kept for later would keep the process for some seconds
