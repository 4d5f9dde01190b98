// The C++ engine (native/web.cc) in an instance of its own: photos, tokens and numbers in, tokens and numbers out.

export class BitMarError extends Error {
  name = "BitMarError";
}

// Bytes of any kind as a Uint8Array, which copies where it is sliced, as Node's Buffer does not; null for what are no bytes.
export function plain(bytes) {
  if (bytes instanceof ArrayBuffer) return new Uint8Array(bytes);
  return ArrayBuffer.isView(bytes) ? new Uint8Array(bytes.buffer, bytes.byteOffset, bytes.byteLength) : null;
}

// A module of one function that returns a v128: what cannot compile it has no SIMD.
const SIMD = Uint8Array.of(
  0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 10, 1, 8, 0, 65, 0, 253, 15, 253, 98, 11,
);

const BOX = 0;
const BICUBIC = 1;

export class Engine {
  #exports;
  #top; // of the stack between two calls

  // wasm: the bytes of bitmar.wasm. Throws BitMarError where WebAssembly or its SIMD is missing.
  static async open(wasm) {
    if (typeof WebAssembly !== "object" || !WebAssembly.validate(SIMD)) {
      throw new BitMarError(
        "This browser has no WebAssembly SIMD, which the model needs: use Chrome 91, Firefox 89, Safari 16.4 or later.",
      );
    }
    const engine = new Engine();
    const failed = () => 8; // EBADF: there are no files
    const imports = {
      bitmar: { fail: (at, size) => engine.#fail(at, size) },
      wasi_snapshot_preview1: { fd_write: failed, fd_seek: failed, fd_close: failed },
    };
    const { instance } = await WebAssembly.instantiate(wasm, imports);
    engine.#exports = instance.exports;
    engine.#exports._initialize();
    engine.#top = engine.#exports.__stack_pointer.value;
    return engine;
  }

  // model: the bytes of a `.bitmar` file. kernels: "portable", for tests; otherwise the fastest.
  load(model, kernels = "") {
    this.#put(model);
    this.#call("load", kernels === "portable" ? 1 : 0);
  }

  // The side, in pixels, of the square that the model sees.
  get size() {
    return this.#call("size");
  }

  // RGBA pixels to RGBA pixels of another size, as Pillow does it.
  resize({ data, width, height }, newWidth, newHeight, { box = false } = {}) {
    this.#put(data);
    const at = this.#call("resize", width, height, newWidth, newHeight, box ? BOX : BICUBIC);
    return { data: this.#bytes(at, 4 * newWidth * newHeight), width: newWidth, height: newHeight };
  }

  // Texts are from here on about this photo, RGBA of `size` by `size`.
  see({ data }) {
    this.#put(data);
    this.#call("see");
  }

  pooled(count) {
    return this.#floats(this.#call("pooled"), count);
  }

  scores(count) {
    return this.#floats(this.#call("scores"), count);
  }

  // What texts read from here on: slots (K, C) and usage (K), Float32Arrays; null for an empty memory.
  memory(state) {
    if (state) {
      const both = new Float32Array(state.slots.length + state.usage.length);
      both.set(state.slots);
      both.set(state.usage, state.slots.length);
      this.#put(both);
    }
    this.#call("memory", state ? 1 : 0);
  }

  // A new text that begins with these ids.
  start(ids, { photo = false, memory = false } = {}) {
    this.#call("start", photo ? 1 : 0, memory ? 1 : 0);
    this.#put(Int32Array.from(ids));
    this.#call("read", ids.length);
  }

  next() {
    return this.#call("next");
  }

  take(id) {
    this.#call("take", id);
  }

  // The `count` likeliest continuations of each of the sequences, best first: ids and log-probabilities, row after row.
  candidates(sequences, count) {
    const at = this.#call("candidates", count);
    const all = sequences * count;
    const ids = Array.from(new BigInt64Array(this.#exports.memory.buffer, at, all), Number);
    return { ids, scores: this.#floats(at + BigInt64Array.BYTES_PER_ELEMENT * all, all) };
  }

  // Goes on with the sequences of these numbers, a token each.
  branch(sources, tokens) {
    this.#put(Int32Array.of(...sources, ...tokens));
    this.#call("branch", sources.length);
  }

  logits(count) {
    return this.#floats(this.#call("logits"), count);
  }

  query(count) {
    return this.#floats(this.#call("query"), count);
  }

  // Natural log-probabilities of all ids but the first, as a text of their own.
  score(ids, { photo = false } = {}) {
    this.#call("start", photo ? 1 : 0, 0);
    this.#put(Int32Array.from(ids));
    return this.#floats(this.#call("score", ids.length), ids.length - 1);
  }

  #put(array) {
    const at = this.#call("room", array.byteLength);
    new Uint8Array(this.#exports.memory.buffer, at, array.byteLength).set(plain(array));
  }

  #bytes(at, count) {
    return new Uint8ClampedArray(this.#exports.memory.buffer, at, count).slice();
  }

  #floats(at, count) {
    return new Float32Array(this.#exports.memory.buffer, at, count).slice();
  }

  #fail(at, size) {
    const text = new TextDecoder().decode(new Uint8Array(this.#exports.memory.buffer, at, size));
    throw new BitMarError(text);
  }

  #call(name, ...values) {
    try {
      return this.#exports[`bitmar_${name}`](...values);
    } catch (error) {
      this.#exports.__stack_pointer.value = this.#top; // what was thrown has not unwound it
      if (error instanceof BitMarError) throw error;
      throw new BitMarError(`The engine stopped: too little memory, or a damaged model (${error.message}).`, { cause: error });
    }
  }
}
