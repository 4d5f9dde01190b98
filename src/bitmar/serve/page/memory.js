// The memory: a square for each slot, lit by how much it is read, and what is remembered in words.

import { json } from "./api.js";

const grid = document.querySelector("#slots");
const reads = document.querySelector("#reads");
const list = document.querySelector("#episodes");
const empty = document.querySelector("#empty");
const percent = new Intl.NumberFormat("en", { style: "percent", maximumFractionDigits: 0 });
const date = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });
let texts = new Map();

export async function showMemory(failed) {
  const memory = await json("GET", "memory");
  while (grid.children.length < memory.slots) {
    grid.append(Object.assign(document.createElement("div"), { className: "slot" }));
  }
  texts = new Map(memory.episodes.map((episode) => [episode.slot, episode.text || "a photo without a name"]));
  [...grid.children].forEach((square, slot) => square.classList.toggle("held", texts.has(slot)));
  list.replaceChildren(...memory.episodes.map((episode) => row(episode, failed)));
  empty.hidden = memory.episodes.length > 0;
}

function row(episode, failed) {
  const text = texts.get(episode.slot);
  const said = document.createElement("p");
  const small = document.createElement("small");
  small.textContent = `slot ${episode.slot}, ${date.format(new Date(1000 * episode.time))}${episode.photo ? ", with a photo" : ""}`;
  said.append(text, small);
  const forget = Object.assign(document.createElement("button"), { type: "button", className: "small", textContent: "Forget" });
  forget.setAttribute("aria-label", `Forget ${text}`);
  forget.onclick = async () => {
    try {
      await json("DELETE", `memory/${episode.slot}`);
      await showMemory(failed);
      list.closest("section").querySelector("h2").focus();
    } catch (error) {
      failed(error);
    }
  };
  const item = document.createElement("li");
  item.append(said, forget);
  return item;
}

// Light the slots that the model reads after `text` about `photo`.
export async function light(photo, text, signal) {
  const { weights } = await json("POST", "slots", { query: { text }, photo, signal });
  [...grid.children].forEach((square, slot) => square.style.setProperty("--share", Math.sqrt(weights[slot]).toFixed(3)));
  const order = weights.map((_, slot) => slot).sort((a, b) => weights[b] - weights[a]);
  const words = order.slice(0, 3).filter((slot) => weights[slot] >= 0.01).map((slot) => {
    const held = texts.has(slot) ? ` (${texts.get(slot)})` : "";
    return `slot ${slot}${held} ${percent.format(weights[slot])}`;
  });
  reads.textContent = `Read the most for this caption: ${words.join(", ")}.`;
}
