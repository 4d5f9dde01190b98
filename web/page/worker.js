// The model and its memory, away from the page's own thread. Requests are answered in their order.

import { BitMarError, load } from "../bitmar/index.js";
import { keep, kept } from "./keep.js";

let model;
let memory = null; // none: the model has no memory
let about;
let last = { key: null, photo: null }; // the photo that the model has looked at

async function start() {
  const { name, file, sha256 } = await (await fetch(new URL("../model.json", import.meta.url))).json();
  const address = new URL(`../${file}`, import.meta.url);
  model = await load(address, { sha256, onProgress: (share) => postMessage({ news: { share } }) });
  await forgetOthers(address);
  try {
    memory = model.memory();
  } catch (error) {
    if (!(error instanceof BitMarError)) throw error;
  }
  if (memory) await recover();
  about = { model: name, memory: memory !== null };
}

// The memory of earlier visits.
async function recover() {
  try {
    const file = await kept(model.file.checksum);
    if (file) memory = model.memory(file);
  } catch (error) {
    const reason = error instanceof BitMarError ? error.message : "The browser gives this page no storage.";
    postMessage({ news: { notice: `${reason} What you name is remembered for this visit only.` } });
  }
}

async function store() {
  try {
    await keep(model.file.checksum, memory.toFile());
  } catch {
    postMessage({ news: { notice: "The browser gives this page no storage, or its disk is full: this is remembered for this visit only." } });
  }
}

// Models that were fetched before this one.
async function forgetOthers(address) {
  const cache = await globalThis.caches?.open("bitmar-models").catch(() => null);
  for (const { url } of (await cache?.keys()) ?? []) if (url !== address.href) await cache.delete(url);
}

const answers = {
  health: () => about,
  async caption({ photo }, piece) {
    const made = await model.caption(photo, { memory, onPiece: piece });
    return { caption: made.text, confidence: made.confidence, general: made.general, recalled: made.recalled };
  },
  async ask({ photo, query: { question } }) {
    const { text: answer, confidence, gain, guess } = await model.ask(photo, question);
    return { answer, confidence, gain, guess };
  },
  async remember({ photo, query: { text } }) {
    const made = await memory.remember(text, photo);
    await store();
    return { ...made, lost: made.lost?.text ?? null };
  },
  memory: () => ({ slots: memory.shape.slots, episodes: memory.episodes }),
  async slots({ photo, query: { text } }) {
    return { weights: await model.readWeights(text, photo, memory) };
  },
  async forget({ query: { slot } }) {
    memory.forget(slot);
    await store();
  },
  save: () => memory.toFile(),
  async open({ query: { file } }) {
    memory = model.memory(new Uint8Array(await file.arrayBuffer()));
    await store();
  },
};

const started = start();
let turn = started.catch(() => null);

onmessage = ({ data }) => {
  turn = turn.then(() => answer(data));
};

async function answer({ number, name, key, ...asked }) {
  try {
    await started;
    if (key !== null && key === last.key) asked.photo = last.photo; // the same object, so that it is looked at once
    else if (asked.photo) last = { key, photo: asked.photo };
    const done = await answers[name](asked, (piece) => postMessage({ number, piece }));
    postMessage({ number, done });
  } catch (error) {
    postMessage({ number, error: error instanceof BitMarError ? error.message : `The page has a fault: ${error.message}` });
  }
}
