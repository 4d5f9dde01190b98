// One job for the package in Node, as JSON from standard input to standard output; photos are files of raw pixels.

import { readFileSync } from "node:fs";

const job = JSON.parse(readFileSync(0, "utf8"));
const { BitMarError, load } = await import(job.package);
const photoOf = ({ path, width, height }) => ({ data: new Uint8Array(readFileSync(path)), width, height });

const jobs = {
  // Captions of photos, with what they are made of.
  async captions({ model, photos, kernels }) {
    const loaded = await load(model, { kernels });
    const made = [];
    for (const photo of photos.map(photoOf)) {
      const pieces = [];
      const caption = await loaded.caption(photo, { onPiece: (piece) => pieces.push(piece) });
      const square = await loaded.square(photo);
      made.push({ ...caption, pieces: pieces.join(""), square: [...square.data], logits: [...(await loaded.logits(photo))] });
    }
    return made;
  },

  // What is said of a model or a photo that cannot be read.
  async refusals({ models, photos, model }) {
    const said = async (work) => {
      try {
        await work();
        return null;
      } catch (error) {
        return error instanceof BitMarError ? error.message : `a fault: ${error.stack}`;
      }
    };
    const loaded = await load(model);
    const refused = [];
    for (const path of models) refused.push(await said(() => load(path)));
    for (const photo of photos) refused.push(await said(() => loaded.caption(photo?.path ? photoOf(photo) : photo)));
    return { refused, after: await said(() => loaded.caption({ data: new Uint8Array(12), width: 2, height: 2 })) };
  },

  async tokens({ model, texts }) {
    const { tokenizer } = await load(model);
    return texts.map((text) => ({ ids: tokenizer.encode(text), text: tokenizer.decode(tokenizer.encode(text)) }));
  },
};

process.stdout.write(JSON.stringify(await jobs[job.job](job)));
