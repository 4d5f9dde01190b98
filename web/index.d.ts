/** Anything that went wrong that a person can do something about: `message` says what. */
export class BitMarError extends Error {}

/** Answer where the photo makes no answer likelier than the question alone. */
export const CANNOT_TELL: "I cannot tell";

/** RGBA, or RGB, row after row: 4, or 3, bytes a pixel. */
export interface Pixels {
  data: Uint8Array | Uint8ClampedArray;
  width: number;
  height: number;
}

/** In a browser whatever `createImageBitmap` takes: a file, an image, a video, a canvas. In Node pixels alone. */
export type Photo = Pixels | ImageBitmapSource;

type Bytes = ArrayBuffer | ArrayBufferView;

export interface LoadOptions {
  /** Of bitmar.wasm, by default the file beside this module. */
  wasm?: string | URL | Bytes;
  /** What the model's file must hash to, in hexadecimal; an older file that was kept is then fetched anew. */
  sha256?: string;
  /** Called with the share of the model that has arrived, from 0 to 1. */
  onProgress?: (share: number) => void;
  /** false: fetch the model anew and keep nothing of it. */
  cache?: boolean;
  /** "portable" instead of the kernels with vectors: the same bits, for tests. */
  kernels?: "portable";
}

/**
 * Load a `.bitmar` file by its address (in Node also a path) or from its bytes.
 *
 * Throws BitMarError for a browser without WebAssembly SIMD, a file that cannot be had, and one that is damaged.
 */
export function load(source: string | URL | Bytes, options?: LoadOptions): Promise<BitMar>;

export interface CaptionOptions {
  /** 32 by default. */
  maxTokens?: number;
  /** 1 is greedy, N the likeliest of a beam search. By default the one of several captions that the photo bears out. */
  beams?: number | null;
  /** Called with each piece of the text as it is written, never half a character; with all of it where it is chosen at the end. */
  onPiece?: (text: string) => void;
  /** Read while the caption is written; a photo that is surely remembered is called what it was called. */
  memory?: Memory | null;
}

export interface Caption {
  text: string;
  tokens: number[];
  finishReason: "stop" | "length";
  /** The chance that it is about the right thing; null for a model that was not calibrated, and for what was recited. */
  confidence: number | null;
  /** What is sure of the photo in general, such as "an animal on grass". */
  general: string | null;
  /** The nearest episode of the memory, if any. */
  recalled: Recalled | null;
  /** Whether the text is what was remembered, word for word. */
  recited: boolean;
}

export interface Answer {
  /** CANNOT_TELL, or the guess. */
  text: string;
  confidence: number;
  /** Nats by which the photo made it likelier. */
  gain: number;
  guess: string;
}

/** A loaded model. Calls are answered one after the other; all of them may throw BitMarError. */
export class BitMar {
  private constructor();
  /** A sentence on a photo. */
  caption(photo: Photo, options?: CaptionOptions): Promise<Caption>;
  /** Yes or no, how many, what color, what is it: a word or two. */
  ask(photo: Photo, question: string): Promise<Answer>;
  /** What this device remembers, empty or from the bytes of a `.mem` file. */
  memory(file?: Bytes | null): Memory;
  /** How much each slot of the memory is read after a text about a photo: (K), sum 1. */
  readWeights(text: string, photo: Photo, memory: Memory): Promise<number[]>;
  /** What the memory is asked with after a text, about a photo or not: (C). */
  query(text: string, photo?: Photo | null): Promise<Float32Array>;
  /** The tower's features of the whole photo: (D_v). */
  features(photo: Photo): Promise<Float32Array>;
  /** Next-token logits after the begin token about a photo: (V). */
  logits(photo: Photo): Promise<Float32Array>;
  /** Pixels of another size, as Pillow makes them: bicubic, or with a box filter. */
  resized(pixels: Pixels, width: number, height: number, options?: { box?: boolean }): Promise<Pixels>;
  /** The square that the model sees of a photo. */
  square(photo: Photo): Promise<Pixels>;
}

export interface Episode {
  slot: number;
  text: string;
  /** Seconds since 1970. */
  time: number;
  /** Hash of the photo's thumbnail, 16 hexadecimal digits; null without a photo. */
  photo: string | null;
  /** 1 is just used; the least used is overwritten first. */
  usage: number;
  /** The text was longer than its record and ends early. */
  cut: boolean;
  /** What it has overwritten. */
  lost: { text: string; time: number } | null;
  /** Of the `remember` that returned it. */
  change?: "new" | "updated" | "unchanged";
}

export interface Recalled {
  episode: Episode;
  /** Resemblance, at most 1. */
  score: number;
  /** The score less the best of all others; null if there is no other. */
  margin: number | null;
  /** How rarely something never seen would score as much: a share below 1. */
  confidence: number;
}

/** Episodes, in RAM: `toFile` gives what keeps them. The model must have a memory and be calibrated. */
export class Memory {
  private constructor();
  readonly shape: { slots: number; value: number; image: number; text: number };
  /** The latest first. */
  readonly episodes: Episode[];
  /** Changes whenever what texts read does. */
  readonly version: number;
  /** Write a text, a photo, or a text on a photo. */
  remember(text: string, photo?: Photo | null): Promise<Episode>;
  /** The k episodes nearest to a photo, the best first. */
  recall(photo: Photo, k?: number): Promise<Recalled[]>;
  forget(slot: number): void;
  /** The bytes of a `.mem` file, which `bitmar` reads with the same model. */
  toFile(): Uint8Array;
}
