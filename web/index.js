// bitmar-web: captions of photos in a browser or in Node, with nothing sent anywhere.
//
//   const model = await load("bitmar-default.bitmar");
//   console.log((await model.caption(photo)).text);

import { CANNOT_TELL, answer, choicesOf, evidenceFor, tidy } from "./ask.js";
import { search } from "./beam.js";
import { BitMarError, Engine, plain } from "./engine.js";
import { fetched } from "./fetched.js";
import { ModelFile } from "./file.js";
import { Memory, recited } from "./memory.js";
import { pixelsOf } from "./photo.js";
import { BEAMS, BEGINNINGS, plainer, worth } from "./rerank.js";
import { Tokenizer } from "./tokenizer.js";
import { Witness } from "./witness.js";

export { BitMarError, CANNOT_TELL };

const LONGEST = 32; // tokens of a caption
const LONGEST_ANSWER = 8;
const MOST_BEAMS = 64;
const USAGE_FLOOR = 1e-4;

// source: the address or the bytes of a `.bitmar` file. wasm: likewise of bitmar.wasm. See index.d.ts for the options.
export async function load(source, { wasm = new URL("bitmar.wasm", import.meta.url), kernels, ...options } = {}) {
  const engine = await Engine.open(await bytesOf(wasm, {}));
  const bytes = await bytesOf(source, options);
  const tables = JSON.parse(new TextDecoder().decode(await fetched(new URL("tables.json", import.meta.url), { cache: false })));
  return new BitMar(engine, bytes, tables, kernels);
}

async function bytesOf(source, options) {
  return plain(source) ?? fetched(source, options);
}

export class BitMar {
  #engine;
  #witness = null; // for a model without concepts
  #seen; // the photo that the engine looks at
  #read; // the memory and its version that the engine reads
  #last = Promise.resolve(); // what runs now: the engine does one thing at a time

  constructor(engine, bytes, tables, kernels) {
    this.file = new ModelFile(bytes);
    engine.load(bytes, kernels);
    this.#engine = engine;
    this.tokenizer = new Tokenizer(this.file.tokenizer);
    if (this.file.config.concepts) this.#witness = new Witness(this.file, this.tokenizer, tables);
  }

  // What this device remembers, empty or from the bytes of a `.mem` file.
  memory(file = null) {
    return new Memory(this, plain(file));
  }

  // A sentence on a photo. beams: 1 is greedy, N the likeliest of a search; null the one of several that the photo bears out,
  // greedy for a model without concepts. onPiece: called with each piece of it, as it is written or once it is chosen. memory:
  // is read while it is written; a photo that is surely remembered is called what it was called.
  caption(photo, { maxTokens = LONGEST, beams = null, onPiece, memory = null } = {}) {
    return this.#alone(async () => {
      check("maxTokens", maxTokens, Infinity);
      if (beams !== null) check("beams", beams, Math.min(MOST_BEAMS, this.file.config.vocab_size >> 1));
      await this.#look(photo);
      const { concepts, vision_dim: wide } = this.file.config;
      const [recalled = null] = memory ? memory.nearest(this.#engine.pooled(wide)) : [];
      const words = recited(recalled);
      if (words) {
        const tokens = this.tokenizer.encode(words);
        const text = this.tokenizer.decode(tokens.slice(0, maxTokens));
        onPiece?.(text);
        const finishReason = tokens.length <= maxTokens ? "stop" : "length";
        return { text, tokens: tokens.slice(0, maxTokens), finishReason, confidence: null, general: null, recalled, recited: true };
      }
      const scores = this.#witness && this.#engine.scores(concepts);
      const tokens = this.#compose(scores, { maxTokens, beams, onPiece, memory });
      const text = this.tokenizer.decode(tokens);
      let [confidence, general] = [null, null];
      if (scores && tokens.length) {
        confidence = this.#witness.confidence(text, this.#logProbability(tokens) / (tokens.length + 1), scores);
        general = this.#witness.general(scores);
      }
      const finishReason = tokens.length < maxTokens ? "stop" : "length";
      return { text: text.trim(), tokens, finishReason, confidence, general, recalled, recited: false };
    });
  }

  // The answer to a question about a photo: { text, confidence, gain, guess }; text is CANNOT_TELL where the photo makes the
  // answer no likelier than the question alone.
  ask(photo, question) {
    return this.#alone(async () => {
      await this.#look(photo);
      const asked = tidy(question);
      const { bos_token_id: begin, eos_token_id: end, concepts } = this.file.config;
      const prompt = [begin, ...this.tokenizer.encode(asked)];
      let choices = choicesOf(asked);
      if (!choices.length) {
        this.#engine.start(prompt, { photo: true });
        choices = [this.tokenizer.decode(this.#write(LONGEST_ANSWER)).trim()];
        if (!choices[0]) return { text: CANNOT_TELL, confidence: 0, gain: 0, guess: "" };
      }
      const scores = this.#witness && this.#engine.scores(concepts);
      const [seen, blind] = [true, false].map((about) =>
        choices.map((choice) => {
          const ids = [...prompt, ...this.tokenizer.encode(` ${choice}`), end];
          const likelihood = this.#engine.score(ids, { photo: about }).slice(prompt.length - 1).reduce((sum, x) => sum + x, 0);
          return likelihood + (about ? evidenceFor(choice, asked, scores, this.#witness) : 0);
        }),
      );
      return answer(choices, seen, blind);
    });
  }

  // How much the model reads each slot of its memory after a text about a photo: (K), sum 1 (w of the paper's eq. 2).
  async readWeights(text, photo, memory) {
    const q = await this.query(text, photo);
    const { slots, usage } = memory.state;
    const [beta, stale] = ["read_beta", "stale"].map((name) => this.file.tensor(`model.memory.${name}`)[0]);
    const rho = Math.log1p(Math.exp(stale));
    const logs = Array.from(usage, (used, k) => {
      let product = 0;
      for (let i = 0; i < q.length; i++) product += q[i] * slots[k * q.length + i];
      return beta * product + rho * Math.log(Math.max(used, USAGE_FLOOR));
    });
    const most = Math.max(...logs);
    const raw = logs.map((x) => Math.exp(x - most));
    const total = raw.reduce((sum, x) => sum + x, 0);
    return raw.map((x) => x / total);
  }

  // What the memory is asked with after a text, about a photo or not: (C), with an empty memory.
  query(text, photo = null) {
    return this.#alone(async () => {
      if (photo) await this.#look(photo);
      this.#start(text, { photo: Boolean(photo) });
      return this.#engine.query(this.file.config.memory_dim);
    });
  }

  // The tower's features of the whole photo (D_v).
  features(photo) {
    return this.#alone(async () => {
      await this.#look(photo);
      return this.#engine.pooled(this.file.config.vision_dim);
    });
  }

  // Pixels of another size, as Pillow makes them: bicubic, or with a box filter.
  resized(pixels, width, height, options) {
    return this.#alone(() => this.#engine.resize(pixels, width, height, options));
  }

  // Logits (V) after the begin token about a photo: what tests compare.
  logits(photo) {
    return this.#alone(async () => {
      await this.#look(photo);
      this.#start("", { photo: true });
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

  #start(text, { photo, memory = null }) {
    if (memory && (memory !== this.#read?.memory || memory.version !== this.#read.version)) {
      this.#engine.memory(memory.state);
      this.#read = { memory, version: memory.version };
    }
    this.#engine.start([this.file.config.bos_token_id, ...this.tokenizer.encode(text)], { photo, memory: Boolean(memory) });
  }

  // The tokens of a caption.
  #compose(scores, { maxTokens, beams, onPiece, memory }) {
    this.#start("", { photo: true, memory });
    if (beams === 1 || !(beams || scores)) return this.#write(maxTokens, onPiece);
    const tokens = beams ? this.#search(beams, maxTokens)[0] : this.#borneOut(scores, maxTokens, memory);
    onPiece?.(this.tokenizer.decode(tokens));
    return tokens;
  }

  // Of several captions the one that the photo bears out.
  #borneOut(scores, most, memory) {
    const found = this.#search(Math.min(BEAMS, this.file.config.vocab_size >> 1), most);
    for (const beginning of BEGINNINGS) {
      const begun = this.tokenizer.encode(beginning);
      if (begun.length >= most) continue;
      this.#start(beginning, { photo: true, memory });
      found.push([...begun, ...this.#write(most - begun.length)]);
    }
    for (const tokens of [...found]) {
      const text = plainer(this.tokenizer.decode(tokens), this.#witness);
      if (text !== null) found.push(this.tokenizer.encode(text));
    }
    const different = [...new Map(found.map((tokens) => [tokens.join(), tokens])).values()];
    const values = different.map((tokens) =>
      worth(this.tokenizer.decode(tokens), this.#logProbability(tokens), scores, this.#witness),
    );
    return different[values.indexOf(Math.max(...values))];
  }

  #search(beams, most) {
    return search(this.#engine, { beams, most, end: this.file.config.eos_token_id });
  }

  // Of a caption and its end, without a memory.
  #logProbability(tokens) {
    const { bos_token_id: begin, eos_token_id: end } = this.file.config;
    return this.#engine.score([begin, ...tokens, end], { photo: true }).reduce((sum, x) => sum + x, 0);
  }

  // Tokens after what was read, greedily.
  #write(most, onPiece) {
    const stream = this.tokenizer.stream();
    const tokens = [];
    const piece = (text) => text && onPiece?.(text);
    for (;;) {
      const id = this.#engine.next();
      if (id === this.file.config.eos_token_id) {
        piece(stream.finish());
        return tokens;
      }
      tokens.push(id);
      piece(stream.push(id));
      if (tokens.length === most) {
        piece(stream.finish());
        return tokens;
      }
      this.#engine.take(id);
    }
  }
}

function check(name, number, most) {
  if (Number.isInteger(number) && number >= 1 && number <= most) return;
  throw new BitMarError(`${name} must be a whole number ${most < Infinity ? `from 1 to ${most}` : "of at least 1"}, not ${number}.`);
}
