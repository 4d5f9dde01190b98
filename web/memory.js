// What a device remembers of photos: bitmar.session, where the reasons stand. Episodes are recalled by photo alone.

import { BitMarError } from "./engine.js";
import { fromHalves, toHalves } from "./half.js";
import { TEXT_BYTES, readMem, writeMem } from "./mem.js";
import { pixelsOf } from "./photo.js";

const SURE = 0.997; // confidence from which on an episode is recited
const SAME = 0.99; // cosine of two photos of one hash that are the same
const TURNS = 4; // quarter turns of a photo that are remembered
const RARER = 10;
const FLAT = 4; // grey levels between the darkest and the brightest spot of a photo that shows nothing
const LOST_BYTES = 120;

export class Memory {
  #model;
  #background;
  #episodes = new Map(); // by slot
  #sequence = 0;
  #made = Date.now() / 1000;
  #uses = new Set(); // slots recalled since the last write, the latest last
  version = 0; // changes whenever what texts read does

  // file: the bytes of a `.mem` file to go on with. Throws BitMarError for a model that has no memory or no calibration.
  constructor(model, file = null) {
    const { config } = model.file;
    if (config.memory_integration === "off") throw new BitMarError("This model has no memory.");
    if (!model.file.has("recall.project.weight")) {
      throw new BitMarError("This model does not know how photos in general look: calibrate it (`bitmar calibrate`).");
    }
    this.#model = model;
    this.#background = new Background(model.file);
    const image = TURNS * this.#background.width;
    this.shape = { slots: config.memory_slots, value: config.memory_dim, image, text: config.memory_dim };
    if (file) {
      const { made, episodes } = readMem(file, { shape: this.shape, model: model.file.checksum });
      this.#made = made;
      for (const episode of episodes) this.#keep(episode);
      this.#sequence = Math.max(0, ...episodes.map(({ used }) => used));
    }
  }

  // All episodes, the latest first.
  get episodes() {
    return [...this.#episodes.values()].sort((a, b) => b.time - a.time || b.written - a.written).map((each) => this.#shown(each));
  }

  // Write an episode: a text on a photo, either may be missing. Its `change` is "new", "updated" or "unchanged".
  async remember(text, photo = null) {
    const words = text.trim();
    if (!words && !photo) throw new BitMarError("There is nothing to remember: give a text, a photo, or both.");
    let [hash, image, key] = [null, null, null];
    if (photo) {
      const pixels = await pixelsOf(photo);
      hash = await this.#hash(pixels);
      const keys = [];
      let turned = pixels;
      for (let turn = 1; turn < TURNS; turn++) {
        turned = quarterTurn(turned);
        keys.push(...(await this.#key(turned)));
      }
      image = toHalves([...(await this.#key(photo)), ...keys]);
    }
    const value = toHalves(await this.#model.query(words, photo));
    if (words) key = photo ? toHalves(await this.#model.query(words)) : value;
    return this.#write({ text: words, photo: hash, value, image, key });
  }

  forget(slot) {
    this.#keepUses();
    if (!this.#episodes.delete(slot)) throw new BitMarError(`Slot ${slot} holds nothing.`);
    this.#sequence++;
    this.version++;
  }

  // The k episodes nearest to a photo, the best first: { episode, score, margin, confidence }.
  async recall(photo, k = 1) {
    return this.nearest(await this.#model.features(photo), k);
  }

  // `recall` by the photo's mean features (D_v).
  nearest(features, k = 1) {
    const key = this.#background.key(features);
    const scored = [...this.#episodes.values()]
      .filter(({ image }) => image)
      .map((episode) => ({ episode, score: resemblance(fromHalves(episode.image), key) }))
      .sort((a, b) => b.score - a.score || a.episode.slot - b.episode.slot);
    if (!scored.length) return [];
    const found = scored.slice(0, k).map(({ episode, score }, rank) => ({
      episode: this.#shown(episode),
      score,
      margin: scored.length > 1 ? score - scored[rank ? 0 : 1].score : null,
      confidence: (1 - this.#background.chance(score)) ** scored.length,
    }));
    const [{ episode: { slot } }] = scored;
    this.#uses.delete(slot);
    this.#uses.add(slot);
    return found;
  }

  // What texts read: the model's own slots with the episodes in theirs.
  get state() {
    const slots = this.#model.file.tensor("model.memory.slots");
    const usage = new Float32Array(this.shape.slots).fill(this.#usage(0));
    for (const { slot, value, used } of this.#episodes.values()) {
      slots.set(fromHalves(value), slot * this.shape.value);
      usage[slot] = this.#usage(used);
    }
    return { slots, usage };
  }

  // The bytes of a `.mem` file, which `bitmar` reads with the same model.
  toFile() {
    this.#keepUses();
    return writeMem({ shape: this.shape, model: this.#model.file.checksum, made: this.#made, episodes: [...this.#episodes.values()] });
  }

  #keepUses() {
    for (const slot of this.#uses) if (this.#episodes.has(slot)) this.#episodes.get(slot).used = ++this.#sequence;
    if (this.#uses.size) this.version++;
    this.#uses.clear();
  }

  #write(episode) {
    this.#keepUses();
    const same = this.#same(episode);
    const cut = cutText(episode.text, TEXT_BYTES);
    if (same && (!episode.text || same.text === cut)) {
      same.used = ++this.#sequence;
      this.version++;
      return { ...this.#shown(same), change: "unchanged" };
    }
    const slot = same?.slot ?? this.#place();
    const old = this.#episodes.get(slot);
    const lost = old ? { text: cutText(old.text, LOST_BYTES), time: old.time } : null;
    const number = ++this.#sequence;
    const time = Date.now() / 1000;
    this.#keep({ ...episode, slot, text: cut, cut: cut !== episode.text, lost, time, written: number, used: number });
    this.version++;
    return { ...this.#shown(this.#episodes.get(slot)), change: same ? "updated" : "new" };
  }

  // The episode of the same photo, or without a photo of the same text.
  #same({ text, photo, image }) {
    const all = [...this.#episodes.values()];
    if (!image) return all.find((each) => !each.image && each.key && each.text === cutText(text, TEXT_BYTES));
    const key = fromHalves(image);
    const found = all.filter((each) => each.image && each.photo === photo).map((each) => [each, cosine(fromHalves(each.image), key)]);
    const [nearest, likeness] = found.sort((a, b) => b[1] - a[1])[0] ?? [null, 0];
    return likeness >= SAME ? nearest : undefined;
  }

  #place() {
    for (let slot = 0; slot < this.shape.slots; slot++) if (!this.#episodes.has(slot)) return slot;
    return [...this.#episodes.values()].sort((a, b) => a.used - b.used)[0].slot;
  }

  #keep(episode) {
    this.#episodes.set(episode.slot, episode);
  }

  #usage(used) {
    return this.#model.file.config.memory_decay ** (this.#sequence - used);
  }

  #shown({ slot, text, time, photo, cut, lost, used }) {
    return { slot, text, time, photo, usage: this.#usage(used), cut, lost };
  }

  async #key(photo) {
    return this.#background.key(await this.#model.features(photo));
  }

  // 16 hexadecimal digits that stay almost the same for a smaller or recompressed copy.
  async #hash(pixels) {
    const spots = grey(await this.#model.resized(pixels, 32, 32)).data;
    const levels = Array.from({ length: spots.length / 4 }, (_, i) => spots[4 * i]);
    if (Math.max(...levels) - Math.min(...levels) < FLAT) {
      throw new BitMarError("The photo shows one colour and nothing else: there is nothing to remember it by.");
    }
    const { data } = await this.#model.resized(grey(pixels), 9, 8, { box: true });
    let bits = 0n;
    for (let y = 0; y < 8; y++) {
      for (let x = 0; x < 8; x++) bits = (bits << 1n) | BigInt(data[4 * (9 * y + x)] > data[4 * (9 * y + x + 1)]);
    }
    return bits.toString(16).padStart(16, "0");
  }
}

// How photos in general look to the model.
class Background {
  #mean;
  #whiten; // (r, D_v)
  #strangers;

  constructor(file) {
    this.#mean = file.tensor("recall.mean");
    this.#strangers = file.tensor("recall.strangers");
    const scale = file.tensor("recall.project.scale");
    this.width = scale.length;
    const wide = this.#mean.length;
    this.#whiten = Float32Array.from(file.tensor("recall.project.weight"), (code, i) => code * scale[Math.floor(i / wide)]);
  }

  // What a photo is looked up by, of length 1: its mean features, after a square root, where what tells photos apart is left.
  key(features) {
    const root = Float32Array.from(features, (x) => Math.sign(x) * Math.sqrt(Math.abs(x)));
    const length = Math.max(norm(root), 1e-12);
    const wide = this.#mean.length;
    const white = new Float32Array(this.width);
    for (let r = 0; r < this.width; r++) {
      let sum = 0;
      for (let i = 0; i < wide; i++) sum += (root[i] / length - this.#mean[i]) * this.#whiten[r * wide + i];
      white[r] = sum;
    }
    const size = Math.max(norm(white), 1e-12);
    return white.map((x) => x / size);
  }

  // How often a photo of something else resembles an episode more than this.
  chance(score) {
    const marks = [...this.#strangers, 1];
    const step = Math.log(10) / 2;
    const rarity = (i) => (i < marks.length - 1 ? step * i : step * (i - 1) + Math.log(RARER));
    if (score <= marks[0]) return Math.exp(-rarity(0));
    for (let i = 1; i < marks.length; i++) {
      if (score < marks[i]) {
        const share = (score - marks[i - 1]) / (marks[i] - marks[i - 1]);
        return Math.exp(-(rarity(i - 1) + share * (rarity(i) - rarity(i - 1))));
      }
    }
    return Math.exp(-rarity(marks.length - 1));
  }
}

// What is said instead of a caption: the remembered text as a sentence, where the recall is sure; otherwise "".
export function recited(found) {
  if (!found || found.confidence < SURE) return "";
  const [first = ""] = found.episode.text;
  const words = (first.toUpperCase() + found.episode.text.slice(first.length)).trimEnd();
  if (/[.!?\u2026\u3002\uff01\uff1f]["'\u2019\u201d)\]]*$/.test(words)) return words;
  const bare = words.replace(/[ \t\r\n,;:\-\u2013\u2014]+$/, "");
  return bare ? `${bare}.` : "";
}

// Counterclockwise.
function quarterTurn({ data, width, height }) {
  const from = new Uint32Array(data.slice().buffer);
  const to = new Uint32Array(from.length);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) to[(width - 1 - x) * height + y] = from[y * width + x];
  }
  return { data: new Uint8ClampedArray(to.buffer), width: height, height: width };
}

// ITU-R 601 as Pillow computes it, in all channels.
function grey({ data, width, height }) {
  const made = new Uint8ClampedArray(data.length);
  for (let i = 0; i < data.length; i += 4) {
    made.fill((data[i] * 19595 + data[i + 1] * 38470 + data[i + 2] * 7471 + 0x8000) >> 16, i, i + 4);
  }
  return { data: made, width, height };
}

function norm(vector) {
  return Math.sqrt(vector.reduce((sum, x) => sum + x * x, 0));
}

function dot(a, b, start = 0) {
  let sum = 0;
  for (let i = 0; i < b.length; i++) sum += a[start + i] * b[i];
  return sum;
}

function cosine(a, b) {
  return dot(a, b) / Math.max(norm(a) * norm(b), 1e-12);
}

// Of a photo's turns the nearest counts. Rounding must not take it above 1.
function resemblance(keys, key) {
  return Math.min(1, Math.max(...Array.from({ length: TURNS }, (_, turn) => dot(keys, key, turn * key.length))));
}

// At most so many bytes of UTF-8, never half a character.
function cutText(text, most) {
  const bytes = new TextEncoder().encode(text);
  if (bytes.length <= most) return text;
  return new TextDecoder().decode(bytes.subarray(0, most), { stream: true });
}
