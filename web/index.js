// bitmar-web: captions of photos in a browser or in Node, with nothing sent anywhere.
//
//   const model = await load("bitmar-default.bitmar");
//   console.log((await model.caption(photo)).text);

import { BitMarError, Engine } from "./engine.js";
import { fetched } from "./fetched.js";
import { ModelFile } from "./file.js";
import { pixelsOf } from "./photo.js";
import { Tokenizer } from "./tokenizer.js";

export { BitMarError };

const LONGEST = 32; // tokens of a caption

// source: the address or the bytes of a `.bitmar` file. wasm: likewise of bitmar.wasm. See index.d.ts for the options.
export async function load(source, { wasm = new URL("bitmar.wasm", import.meta.url), kernels, ...options } = {}) {
  const engine = await Engine.open(await bytesOf(wasm, {}));
  return new BitMar(engine, await bytesOf(source, options), kernels);
}

async function bytesOf(source, options) {
  if (source instanceof ArrayBuffer) return new Uint8Array(source);
  return ArrayBuffer.isView(source) ? source : fetched(source, options);
}

export class BitMar {
  #engine;
  #seen; // the photo that the engine looks at
  #last = Promise.resolve(); // what runs now: the engine does one thing at a time

  constructor(engine, bytes, kernels) {
    this.file = new ModelFile(bytes);
    engine.load(bytes, kernels);
    this.#engine = engine;
    this.tokenizer = new Tokenizer(this.file.tokenizer);
  }

  // A sentence on a photo, greedy. onPiece: called with each piece of it as it is written.
  caption(photo, { maxTokens = LONGEST, onPiece } = {}) {
    return this.#alone(async () => {
      await this.#look(photo);
      const { bos_token_id: begin } = this.file.config;
      this.#engine.start([begin], { photo: true });
      const { tokens, ended } = this.#write(maxTokens, onPiece);
      return { text: this.tokenizer.decode(tokens).trim(), tokens, finishReason: ended ? "stop" : "length" };
    });
  }

  // Logits (V) after the begin token about a photo: what tests compare.
  logits(photo) {
    return this.#alone(async () => {
      await this.#look(photo);
      this.#engine.start([this.file.config.bos_token_id], { photo: true });
      return this.#engine.logits(this.file.config.vocab_size);
    });
  }

  // The square that the model sees of a photo, RGBA.
  async square(photo) {
    const pixels = await pixelsOf(photo);
    return this.#alone(() => this.#engine.resize(pixels, this.#engine.size, this.#engine.size));
  }

  #alone(work) {
    const run = this.#last.then(work);
    this.#last = run.catch(() => null);
    return run;
  }

  async #look(photo) {
    if (photo === this.#seen) return;
    const pixels = await pixelsOf(photo);
    this.#seen = null;
    this.#engine.see(this.#engine.resize(pixels, this.#engine.size, this.#engine.size));
    this.#seen = photo;
  }

  #write(most, onPiece) {
    const stream = this.tokenizer.stream();
    const tokens = [];
    const piece = (text) => text && onPiece?.(text);
    for (;;) {
      const id = this.#engine.next();
      if (id === this.file.config.eos_token_id) {
        piece(stream.finish());
        return { tokens, ended: true };
      }
      tokens.push(id);
      piece(stream.push(id));
      if (tokens.length === most) {
        piece(stream.finish());
        return { tokens, ended: false };
      }
      this.#engine.take(id);
    }
  }
}
