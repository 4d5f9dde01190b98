// How far a caption can be trusted, by the concepts of its photo: bitmar.runtime.confidence, where the reasons stand.

const CLEAR = 0.6; // together so much of a general notion's concepts, and it can be said
const HEARD = 0.15; // a concept that scores less says nothing
const EDGE = 0.01; // scores are kept this far from 0 and 1 before their log-odds are taken
const LONGEST = 3; // words of a phrase
const WORD_IDS = 6;
const EVIDENCE = 7;

export class Witness {
  #index; // concepts by name
  #synonyms;
  #stopwords;
  #notions;
  #things;
  #prior;
  #weights;

  // tables: { general, stopwords, synonyms }, the texts of the tables of these names.
  constructor(file, tokenizer, tables) {
    const words = file.tensor("model.concepts.words");
    this.count = words.length / WORD_IDS;
    this.#index = new Map();
    for (let i = 0; i < this.count; i++) {
      const ids = words.subarray(i * WORD_IDS, (i + 1) * WORD_IDS).filter((id) => id >= 0);
      this.#index.set(tokenizer.decode(ids).trim(), i);
    }
    this.#synonyms = new Map();
    for (const line of tables.synonyms.trim().split("\n").filter((row) => !row.startsWith("#"))) {
      const [word, others] = line.split("\t");
      for (const other of others.split(" ")) this.#synonyms.set(other, word);
    }
    this.#stopwords = new Set(tables.stopwords.trim().split(/\s+/));
    const rows = tables.general.trim().split("\n").slice(1).join("\n");
    this.#notions = rows.split("\n\n").map((part) =>
      part.split("\n").map((row) => row.split("\t")).map(([phrase, members]) => [phrase, this.find(members)]),
    );
    const classed = file.tensor("model.concepts.class_concepts").filter((concept) => concept >= 0);
    this.#things = new Set([...this.#notions[0].flatMap(([, members]) => members), ...classed]);
    this.#prior = file.tensor("model.concepts.prior");
    const weights = file.has("confidence.weights") ? file.tensor("confidence.weights") : [];
    this.#weights = weights.length === EVIDENCE ? weights : null;
  }

  // The concepts that a text names, in their order, each once; the longest phrase first.
  find(text) {
    return [...new Set(this.mentions(text))];
  }

  // `find`, each as often as it is named.
  mentions(text) {
    return this.#parts(text).filter((part) => typeof part === "number");
  }

  // The words of a text that say something and belong to no concept.
  unknown(text) {
    return this.#parts(text).filter((part) => typeof part === "string" && !this.#stopwords.has(part));
  }

  // The chance that a caption is about the right thing; null for a model that was not calibrated.
  // likelihood: mean log-probability of its tokens and its end. scores: of the photo's concepts.
  confidence(caption, likelihood, scores) {
    if (!this.#weights) return null;
    const subject = this.find(caption).find((concept) => this.#things.has(concept));
    const best = [...this.#things].sort((a, b) => scores[b] - scores[a] || a - b)[0];
    const kin = subject !== undefined && this.#notion(subject) !== undefined && this.#notion(subject) === this.#notion(best);
    const sum = scores.reduce((total, score) => total + score, 0);
    const evidence = [
      likelihood, logOdds(scores[subject] ?? 0), logOdds(scores[best]), +(subject === best), +kin, Math.log(sum + EDGE), 1,
    ];
    return 1 / (1 + Math.exp(-evidence.reduce((total, x, i) => total + x * this.#weights[i], 0)));
  }

  // What is sure of a photo in general: "an animal on grass"; null where not even that is.
  general(scores) {
    const [thing, place, scenery] = this.#notions.map((notions) => clearest(notions, scores));
    return thing ? [thing, place].filter(Boolean).join(" ") : scenery ?? null;
  }

  // For each concept that a text names: by how many nats the photo speaks for it, or against it.
  weightsOfEvidence(text, scores) {
    return this.find(text).map((concept) => logOdds(scores[concept]) - this.#prior[concept]);
  }

  // A text as the numbers of its concepts and the words that belong to none.
  #parts(text) {
    const words = text.toLowerCase().match(/[a-z]+/g) ?? [];
    const parts = [];
    for (let at = 0; at < words.length; ) {
      let length = Math.min(LONGEST, words.length - at);
      let concept;
      while ((concept = this.#concept(words.slice(at, at + length))) === undefined && length > 1) length--;
      parts.push(concept ?? words[at]);
      at += length;
    }
    return parts;
  }

  #concept(words) {
    if (words.length === 1) {
      const [word] = words;
      const forms = [word, this.#synonyms.get(word), ...singulars(word)];
      return forms.map((form) => this.#index.get(form)).find((concept) => concept !== undefined);
    }
    const first = words.slice(0, -1).join(" ");
    const last = words.at(-1);
    return [last, ...singulars(last)].map((form) => this.#index.get(`${first} ${form}`)).find((concept) => concept !== undefined);
  }

  #notion(concept) {
    return this.#notions[0].find(([, members]) => members.includes(concept))?.[0];
  }
}

function clearest(notions, scores) {
  let found = null;
  let most = -1;
  for (const [phrase, members] of notions.filter(([, concepts]) => concepts.length)) {
    const sum = members.reduce((total, concept) => total + (scores[concept] >= HEARD ? scores[concept] : 0), 0);
    if (sum > most) [found, most] = [phrase, sum];
  }
  return most >= CLEAR ? found : null;
}

function singulars(word) {
  const found = [];
  if (word.endsWith("ies")) found.push(`${word.slice(0, -3)}y`);
  if (word.endsWith("es")) found.push(word.slice(0, -2));
  if (word.endsWith("s") && !word.endsWith("ss")) found.push(word.slice(0, -1));
  return found;
}

export function logOdds(chance) {
  const p = Math.min(Math.max(chance, EDGE), 1 - EDGE);
  return Math.log(p / (1 - p));
}
