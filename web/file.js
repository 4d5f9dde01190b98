// A `.bitmar` file: safetensors, its header as JSON before its tensors (docs/format.md).

import { BitMarError } from "./engine.js";

const KINDS = { F32: Float32Array, I8: Int8Array, I32: Int32Array, U8: Uint8Array };

export class ModelFile {
  #header;
  #data;

  // bytes: a Uint8Array of the whole file. The engine checks the rest of it.
  constructor(bytes) {
    try {
      const size = Number(new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength).getBigUint64(0, true));
      this.#header = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes.subarray(8, 8 + size)));
      this.#data = bytes.subarray(8 + size);
      const about = this.#header.__metadata__;
      [this.config, this.vision, this.tokenizer, this.card] = ["config", "vision", "tokenizer", "card"].map((name) => JSON.parse(about[name]));
      this.checksum = about.checksum;
    } catch (error) {
      throw new BitMarError("This is no .bitmar file, or a damaged one: download it again.", { cause: error });
    }
  }

  has(name) {
    return name in this.#header;
  }

  // A copy of a tensor's numbers, row after row.
  tensor(name) {
    const { dtype, data_offsets: [first, last] } = this.#header[name];
    return new KINDS[dtype](this.#data.slice(first, last).buffer);
  }
}
