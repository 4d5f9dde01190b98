// The `.mem` file, version 2 (docs/memory.md; bitmar.session.layout has the places): written whole, read whole.

import { BitMarError } from "./engine.js";

export const TEXT_BYTES = 512;

const PAGE = 4096;
const LOST_BYTES = 120;
const RECORD = TEXT_BYTES + 8 + LOST_BYTES;
const HEADER = 104;
const ENTRY = 64;
const USE = 8;
const SEALS = [PAGE, 2 * PAGE, 3 * PAGE];
const [LIVE, IMAGE, TEXT, CUT, HASH] = [1, 2, 4, 8, 16];
const MAGIC = "BITMAR\0M";
const COLUMNS = ["value", "image", "text"];

const table = Uint32Array.from({ length: 256 }, (_, n) => {
  for (let k = 0; k < 8; k++) n = n & 1 ? 0xedb88320 ^ (n >>> 1) : n >>> 1;
  return n;
});

// shape: { slots, value, image, text }, the numbers of slots and of values in their vectors.
function layoutOf({ slots, value, image, text }) {
  const cells = slots + 1;
  const widths = [2 * value, 2 * image, 2 * text, RECORD];
  const starts = [PAGE * (1 + SEALS.length)];
  for (const size of [ENTRY * cells, USE * slots, ...widths.map((width) => width * cells)]) {
    starts.push(starts.at(-1) + Math.ceil(size / PAGE) * PAGE);
  }
  const [directory, uses, ...begins] = starts;
  return { cells, directory, uses, widths, begins, size: starts.at(-1) };
}

// episodes: [{ slot, text, time, photo, cut, lost, value, image, key, written, used }], vectors as 16-bit floats, null where
// there is none; written, used: numbers of the writes. model: its checksum. made: seconds since 1970.
export function writeMem({ shape, model, made, episodes }) {
  const layout = layoutOf(shape);
  const bytes = new Uint8Array(layout.size);
  const view = new DataView(bytes.buffer);
  const utf8 = new TextEncoder();
  const header = [2, shape.slots, shape.value, shape.image, shape.text, TEXT_BYTES];
  bytes.set(utf8.encode(MAGIC));
  header.forEach((number, i) => view.setUint32(8 + 4 * i, number, true));
  bytes.set(utf8.encode(model), 32);
  view.setFloat64(96, made, true);
  view.setUint32(HEADER, crc32(bytes.subarray(0, HEADER)), true);
  const ordered = [...episodes].sort((a, b) => a.written - b.written);
  ordered.forEach((episode, cell) => {
    const text = utf8.encode(episode.text);
    const lost = utf8.encode(episode.lost?.text ?? "");
    const record = new Uint8Array(RECORD);
    record.set(text);
    new DataView(record.buffer).setFloat64(TEXT_BYTES, episode.lost?.time ?? 0, true);
    record.set(lost, TEXT_BYTES + 8);
    const vectors = [episode.value, episode.image, episode.key].map((vector, i) =>
      vector ? new Uint8Array(vector.buffer, vector.byteOffset, vector.byteLength) : new Uint8Array(layout.widths[i]),
    );
    const at = layout.directory + ENTRY * cell;
    view.setBigUint64(at, BigInt(episode.written), true);
    view.setUint32(at + 8, episode.slot, true);
    const flags = [LIVE, episode.image && IMAGE, episode.key && TEXT, episode.cut && CUT, episode.photo && HASH];
    view.setUint32(at + 12, flags.reduce((all, flag) => all | (flag || 0), 0), true);
    view.setFloat64(at + 16, episode.time, true);
    view.setBigUint64(at + 24, BigInt(`0x${episode.photo ?? "0"}`), true);
    view.setUint32(at + 32, cell + 1, true);
    view.setUint16(at + 36, text.length, true);
    view.setUint16(at + 38, lost.length, true);
    [...vectors, record].forEach((part, i) => {
      bytes.set(part, layout.begins[i] + layout.widths[i] * cell);
      view.setUint32(at + 40 + 4 * i, crc32(part, episode.slot), true);
    });
    view.setUint32(at + 60, crc32(bytes.subarray(at, at + 60)), true);
    const use = layout.uses + USE * episode.slot;
    view.setUint32(use, episode.used, true);
    view.setUint32(use + 4, useChecksum(episode.slot, episode.used), true);
  });
  if (ordered.length) seal(bytes, view, layout, ordered.length - 1);
  return bytes;
}

// What the directory is, with its last entry apart: the same in all three places, as after a finished write.
function seal(bytes, view, layout, cell) {
  const at = layout.directory + ENTRY * cell;
  const others = bytes.slice(layout.directory, layout.directory + ENTRY * layout.cells).fill(0, ENTRY * cell, ENTRY * (cell + 1));
  const body = new Uint8Array(28);
  const out = new DataView(body.buffer);
  body.set(bytes.subarray(at, at + 8));
  out.setUint32(8, cell + 1, true);
  out.setUint32(12, cell, true);
  out.setUint32(16, crc32(others), true);
  out.setUint32(20, view.getUint32(at + 60, true), true);
  out.setUint32(24, crc32(body.subarray(0, 24)), true);
  for (const place of SEALS) bytes.set(body, place);
}

// { made, episodes } of a file. Throws BitMarError for one of another kind, model or shape, and for a damaged one.
export function readMem(bytes, { shape, model }) {
  const layout = layoutOf(shape);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const utf8 = new TextDecoder();
  if (utf8.decode(bytes.subarray(0, 8)) !== MAGIC) throw new BitMarError("This is no memory file (.mem).");
  const damaged = () => new BitMarError("This memory file is damaged: `bitmar memory export --salvage` saves what can be saved.");
  if (bytes.length < HEADER + 4 || view.getUint32(HEADER, true) !== crc32(bytes.subarray(0, HEADER))) throw damaged();
  if (view.getUint32(8, true) !== 2) throw new BitMarError("This memory file is of another version: write to it with `bitmar remember` first.");
  if (utf8.decode(bytes.subarray(32, 96)) !== model) throw new BitMarError("This memory file belongs to another model.");
  if (bytes.length !== layout.size) throw damaged();
  const found = new Map();
  for (let cell = 0; cell < layout.cells; cell++) {
    const at = layout.directory + ENTRY * cell;
    const raw = bytes.subarray(at, at + ENTRY);
    if (raw.every((byte) => byte === 0)) continue;
    if (view.getUint32(at + 60, true) !== crc32(raw.subarray(0, 60))) throw damaged();
    const slot = view.getUint32(at + 8, true);
    const written = Number(view.getBigUint64(at, true));
    if (slot >= shape.slots) throw damaged();
    if (written > (found.get(slot)?.written ?? 0)) found.set(slot, { slot, written, cell, at });
  }
  const episodes = [];
  for (const { slot, written, cell, at } of found.values()) {
    const flags = view.getUint32(at + 12, true);
    if (!(flags & LIVE)) continue;
    const [value, image, key, record] = [...COLUMNS, "record"].map((_, i) => {
      const start = layout.begins[i] + layout.widths[i] * cell;
      const part = bytes.slice(start, start + layout.widths[i]);
      if (crc32(part, slot) !== view.getUint32(at + 40 + 4 * i, true)) throw damaged();
      return part;
    });
    const lostTime = new DataView(record.buffer).getFloat64(TEXT_BYTES, true);
    const lostText = utf8.decode(record.subarray(TEXT_BYTES + 8, TEXT_BYTES + 8 + view.getUint16(at + 38, true)));
    const use = layout.uses + USE * slot;
    const used = view.getUint32(use, true);
    episodes.push({
      slot,
      text: utf8.decode(record.subarray(0, view.getUint16(at + 36, true))),
      time: view.getFloat64(at + 16, true),
      photo: flags & HASH ? view.getBigUint64(at + 24, true).toString(16).padStart(16, "0") : null,
      cut: Boolean(flags & CUT),
      lost: lostTime ? { text: lostText, time: lostTime } : null,
      value: new Uint16Array(value.buffer),
      image: flags & IMAGE ? new Uint16Array(image.buffer) : null,
      key: flags & TEXT ? new Uint16Array(key.buffer) : null,
      written,
      used: Math.max(written, view.getUint32(use + 4, true) === useChecksum(slot, used) ? used : 0),
    });
  }
  return { made: view.getFloat64(96, true), episodes };
}

function useChecksum(slot, number) {
  return crc32(new Uint8Array(Uint32Array.of(slot, number).buffer));
}

function crc32(bytes, start = 0) {
  let crc = ~start;
  for (const byte of bytes) crc = table[(crc ^ byte) & 255] ^ (crc >>> 8);
  return ~crc >>> 0;
}
