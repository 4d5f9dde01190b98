// One job for the package in Node, as JSON from standard input to standard output; photos are files of raw pixels.

import { readFileSync, writeFileSync } from "node:fs";

const job = JSON.parse(readFileSync(0, "utf8"));
const { BitMarError, load } = await import(job.package);
const photoOf = ({ path, width, height }) => ({ data: new Uint8Array(readFileSync(path)), width, height });

// The message of a BitMarError; null where all went well.
const said = async (work) => {
  try {
    await work();
    return null;
  } catch (error) {
    return error instanceof BitMarError ? error.message : `a fault: ${error.stack}`;
  }
};

const jobs = {
  // Captions of photos, with what they are made of.
  async captions({ model, photos, kernels, options }) {
    const loaded = await load(model, { kernels });
    const made = [];
    for (const photo of photos.map(photoOf)) {
      const pieces = [];
      const caption = await loaded.caption(photo, { onPiece: (piece) => pieces.push(piece), ...options });
      const square = await loaded.square(photo);
      made.push({ ...caption, pieces, square: [...square.data], logits: [...(await loaded.logits(photo))] });
    }
    return made;
  },

  // What is said of a model or a photo that cannot be read.
  async refusals({ models, photos, options, model }) {
    const loaded = await load(model);
    const refused = [];
    for (const path of models) refused.push(await said(() => load(path)));
    for (const photo of photos) refused.push(await said(() => loaded.caption(photo?.path ? photoOf(photo) : photo)));
    const small = { data: new Uint8Array(12), width: 2, height: 2 };
    for (const each of options) refused.push(await said(() => loaded.caption(small, each)));
    return { refused, after: await said(() => loaded.caption(small)) };
  },

  // A memory that remembers, goes through a file, recalls, and is read while captions are written.
  async memory({ model, remembered, shown, file, saved }) {
    const loaded = await load(model);
    let memory = loaded.memory(file ? readFileSync(file) : null);
    const changes = [];
    for (const { text, photo } of remembered) changes.push(await memory.remember(text, photo && photoOf(photo)));
    writeFileSync(saved, memory.toFile());
    memory = loaded.memory(readFileSync(saved));
    const found = [];
    for (const photo of shown.map(photoOf)) {
      const [recalled] = await memory.recall(photo);
      const { text, recited } = await loaded.caption(photo, { memory });
      found.push({ recalled, text, recited, weights: await loaded.readWeights(text, photo, memory) });
    }
    return { changes, episodes: memory.episodes, found };
  },

  async broken({ model, files }) {
    const loaded = await load(model);
    return Promise.all(files.map((file) => said(() => loaded.memory(readFileSync(file)))));
  },

  async answers({ model, questions }) {
    const loaded = await load(model);
    const answers = [];
    for (const { photo, question } of questions) answers.push(await loaded.ask(photoOf(photo), question));
    return answers;
  },

  async tokens({ model, texts }) {
    const { tokenizer } = await load(model);
    return texts.map((text) => ({ ids: tokenizer.encode(text), text: tokenizer.decode(tokenizer.encode(text)) }));
  },
};

process.stdout.write(JSON.stringify(await jobs[job.job](job)));
