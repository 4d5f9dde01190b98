// Of several captions of a photo the one that it bears out: bitmar.runtime.rerank, where the reasons stand.

import { logOdds } from "./witness.js";

export const BEAMS = 4;
export const BEGINNINGS = ["There is", "A close up of"];

const WRITTEN = 1.25; // log-odds
const FALSE = 0.5; // what a false claim costs, where a true one is worth 1
const UNKNOWN = 0.3; // what a word costs that names no concept
const LIKELY = 0.06; // what a nat of a caption's log-probability is worth

// The caption without a word behind a concept that names none itself, or null.
export function plainer(caption, witness) {
  const unknown = new Set(witness.unknown(caption)), parts = caption.split(" ");
  for (let i = 1; i < parts.length; i++) {
    const [word, end] = parts[i].match(/^(.*?)([.,]*)$/s).slice(1);
    if (unknown.has(word) && witness.mentions(parts[i - 1]).length) {
      return [...parts.slice(0, i - 1), parts[i - 1] + end, ...parts.slice(i + 1)].join(" ");
    }
  }
  return null;
}

// What a caption is worth. logProbability: of the whole of it. scores: of the photo's concepts.
export function worth(caption, logProbability, scores, witness) {
  const named = witness.mentions(caption);
  const claims = [...new Set(named)].map((concept) => {
    const right = 1 / (1 + Math.exp(-(logOdds(scores[concept]) + WRITTEN)));
    return right - FALSE * (1 - right);
  });
  const cost = FALSE * (named.length - claims.length) + UNKNOWN * witness.unknown(caption).length;
  return claims.reduce((sum, x) => sum + x, 0) - cost + LIKELY * logProbability;
}
