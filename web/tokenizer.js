// Byte-level BPE (GPT-2's) from a model's tokenizer.json: text to ids and back.

import { BitMarError } from "./engine.js";

const WORDS = /'(?:s|t|re|ve|m|ll|d)| ?\p{L}+| ?\p{N}+| ?[^\p{White_Space}\p{L}\p{N}]+|\p{White_Space}+(?!\P{White_Space})|\p{White_Space}+/gu;

export class Tokenizer {
  #ids; // of entries
  #ranks = new Map(); // of merges
  #bytes = []; // what each id spells

  // file: a tokenizer.json, parsed.
  constructor(file) {
    const { model, pre_tokenizer: words, decoder, normalizer, added_tokens: added } = file;
    const plain = words?.type === "ByteLevel" && words.use_regex && !words.add_prefix_space && !normalizer;
    if (model.type !== "BPE" || decoder?.type !== "ByteLevel" || !plain) {
      throw new BitMarError("This model's tokenizer is not byte-level BPE, the only one that is read here.");
    }
    this.#ids = new Map(Object.entries(model.vocab));
    model.merges.forEach((pair, rank) => this.#ranks.set(Array.isArray(pair) ? pair.join(" ") : pair, rank));
    const byteOf = new Map(characters().map((character, byte) => [character, byte]));
    const text = new TextEncoder();
    const spell = (entry) => {
      const bytes = [...entry].map((character) => byteOf.get(character));
      return bytes.includes(undefined) ? text.encode(entry) : Uint8Array.from(bytes);
    };
    for (const [entry, id] of this.#ids) this.#bytes[id] = spell(entry);
    for (const { id, content, special } of added) this.#bytes[id] = special ? new Uint8Array() : spell(content);
  }

  encode(text) {
    const names = characters();
    const bytes = new TextEncoder();
    return (text.match(WORDS) ?? []).flatMap((word) => {
      let parts = [...bytes.encode(word)].map((byte) => names[byte]);
      while (parts.length > 1) {
        let best = Infinity;
        let at = 0;
        for (let i = 0; i + 1 < parts.length; i++) {
          const rank = this.#ranks.get(`${parts[i]} ${parts[i + 1]}`) ?? Infinity;
          if (rank < best) [best, at] = [rank, i];
        }
        if (best === Infinity) break;
        parts.splice(at, 2, parts[at] + parts[at + 1]);
      }
      return parts.map((part) => this.#ids.get(part));
    });
  }

  decode(ids) {
    const stream = this.stream();
    return [...ids].map((id) => stream.push(id)).join("") + stream.finish();
  }

  // Ids to text one by one, never half a character.
  stream() {
    const decoder = new TextDecoder();
    return {
      push: (id) => decoder.decode(this.#bytes[id], { stream: true }),
      finish: () => decoder.decode(),
    };
  }
}

// The character that stands for each byte: itself where it can be seen, else the next free one from U+0100 on.
let all;

function characters() {
  let free = 0x100;
  all ??= Array.from({ length: 256 }, (_, byte) => {
    const seen = (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte !== 0xad);
    return String.fromCharCode(seen ? byte : free++);
  });
  return all;
}
