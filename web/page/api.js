// What the server's api.js gives the page, without a server: the model runs in a worker of this browser.

import { announce, begin } from "./shell.js";

export class ApiError extends Error {}

export const keys = { ask: async () => null }; // there is no key

const running = new Map(); // requests by number
const photos = new WeakMap(); // numbers of those that the worker has been given
let last = 0;
let shown = 0; // the number of the latest photo
const worker = new Worker(new URL("worker.js", import.meta.url), { type: "module" });

worker.onmessage = ({ data: { number, piece, done, error, news } }) => {
  if (news) return announce(news);
  const request = running.get(number);
  if (piece) return request.piece?.(piece);
  running.delete(number);
  if (error) request.reject(new ApiError(error));
  else request.resolve(done);
};
worker.onerror = () => {
  const fault = new ApiError("This browser cannot run the model in a worker: use a current Chrome, Firefox or Safari.");
  for (const { reject } of running.values()) reject(fault);
  running.clear();
};

// What the worker answers under this name. A request that is given up is answered all the same, to nobody.
function request(name, values, { signal, piece } = {}) {
  return new Promise((resolve, reject) => {
    signal?.throwIfAborted();
    signal?.addEventListener("abort", () => reject(signal.reason));
    const number = ++last;
    running.set(number, { resolve, reject, piece });
    worker.postMessage({ number, name, ...values });
  });
}

function values({ query = {}, photo = null }) {
  if (photo && !photos.has(photo)) photos.set(photo, ++shown);
  return { query, photo, key: photo && photos.get(photo) };
}

// A stream of the events of a caption.
export async function call(method, path, options) {
  return new ReadableStream({
    start(stream) {
      const piece = (text) => stream.enqueue(["piece", { text }]);
      request(path, values(options), { signal: options.signal, piece }).then(
        (done) => {
          stream.enqueue(["done", done]);
          stream.close();
        },
        (error) => stream.error(error),
      );
    },
  });
}

export async function* events(stream) {
  for (const reader = stream.getReader(); ; ) {
    const { value, done } = await reader.read();
    if (done) return;
    yield value;
  }
}

export async function json(method, path, options = {}) {
  const [name, slot] = path.split("/");
  if (method === "DELETE") return request("forget", { query: { slot: Number(slot) } });
  return request(name, values(options), options);
}

export async function health() {
  const about = await request("health", {});
  begin({ request, memory: about.memory });
  return about;
}
