// Questions about a photo, answered in a word or two: bitmar.runtime.ask, where the reasons stand.

import { BitMarError } from "./engine.js";

export const CANNOT_TELL = "I cannot tell";

const MOVED = 0.1; // nats an answer must gain by the photo
const COLORS = "black white red blue green yellow brown orange pink purple gray tan".split(" ");
const CLOSED = { "what color": COLORS, "what colour": COLORS, "how many": [..."012345678"] };
const POLAR = "is are was were does do did has have can could will would".split(" ");

// The question as the model has met them. Throws BitMarError for none.
export function tidy(question) {
  const text = question.split(/\s+/).filter(Boolean).join(" ").replace(/[?.! ]+$/, "");
  if (!text) throw new BitMarError('Ask a question, such as "What color is the dog?"');
  const [first] = text;
  return `${first.toUpperCase()}${text.slice(first.length)}?`;
}

// The answers to choose from; none where the model says what it likes.
export function choicesOf(question) {
  if (isPolar(question)) return ["yes", "no"];
  return Object.entries(CLOSED).find(([start]) => question.toLowerCase().startsWith(start))?.[1] ?? [];
}

// Nats by which the concepts of a photo speak for an answer.
export function evidenceFor(answer, question, scores, witness) {
  if (!witness) return 0;
  if (isPolar(question)) {
    return answer === "yes" ? witness.weightsOfEvidence(question, scores).reduce((sum, x) => sum + x, 0) : 0;
  }
  const weights = witness.weightsOfEvidence(answer, scores);
  return weights.length ? Math.max(...weights) : 0;
}

// seen, blind: log-probabilities of the choices, evidence included, beside the photo and without it.
export function answer(choices, seen, blind) {
  const best = seen.indexOf(Math.max(...seen));
  let confidence = Math.exp(Math.min(seen[0], 0));
  let gain = seen[0] - blind[0];
  if (choices.length > 1) {
    confidence = shares(seen)[best];
    gain = Math.log(confidence / shares(blind)[best]);
  }
  return { text: gain >= MOVED ? choices[best] : CANNOT_TELL, confidence, gain, guess: choices[best] };
}

function isPolar(question) {
  return POLAR.includes(question.split(" ", 1)[0].toLowerCase()) && !question.includes(" or ");
}

function shares(logs) {
  const most = Math.max(...logs);
  const raw = logs.map((x) => Math.exp(x - most));
  const total = raw.reduce((sum, x) => sum + x, 0);
  return raw.map((x) => x / total);
}
