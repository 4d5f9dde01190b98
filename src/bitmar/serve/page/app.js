// The page: a photo comes in by file, drop, paste or camera; what is known of it appears.

import { call, events, health, json, keys } from "./api.js";
import { photograph } from "./camera.js";
import * as past from "./history.js";
import { light, showMemory } from "./memory.js";

const $ = (name) => document.getElementById(name);
const percent = new Intl.NumberFormat("en", { style: "percent", maximumFractionDigits: 0 });
const DOUBTFUL = 0.5;
const SURE = 0.9; // of a memory that is named as one

let photo = null; // the file that all is about
let running = new AbortController();

function failed(error) {
  if (error.name === "AbortError") return;
  $("fault").textContent = error.message;
  $("fault").hidden = false;
}

// Run what a person has asked for; its error is shown, the last one's is gone.
async function attempt(work) {
  $("fault").hidden = true;
  try {
    await work();
  } catch (error) {
    failed(error);
  }
}

function show(file) {
  URL.revokeObjectURL($("shown").src);
  $("shown").src = URL.createObjectURL(file);
  $("shown").alt = "The chosen photo";
  $("shown").hidden = false;
  $("hint").hidden = true;
  $("stage").classList.add("full");
}

async function look(file, keep = true) {
  running.abort();
  running = new AbortController();
  const { signal } = running;
  photo = file;
  show(file);
  for (const name of ["trust", "recalled"]) $(name).hidden = true;
  $("answers").replaceChildren();
  $("remembered").textContent = "";
  for (const button of document.querySelectorAll("#ask button, #remember button")) button.disabled = false;
  await attempt(async () => {
    const made = await caption(file, signal);
    $("shown").alt = made.caption;
    trust(made);
    await light(file, made.caption, signal);
    if (keep) {
      await past.add(file, made.caption);
      await showPast();
    }
  });
}

async function caption(file, signal) {
  const line = $("caption");
  line.textContent = "";
  line.classList.add("running");
  line.setAttribute("aria-busy", "true"); // read out once, when it is whole
  try {
    const response = await call("POST", "caption", { query: { stream: true }, photo: file, signal });
    for await (const [name, found] of events(response)) {
      if (name === "piece") line.textContent += found.text;
      if (name === "done") {
        line.textContent = found.caption;
        return found;
      }
    }
    throw new Error("The caption broke off.");
  } finally {
    if (!signal.aborted) {
      line.classList.remove("running");
      line.removeAttribute("aria-busy");
    }
  }
}

function trust(made) {
  if (made.confidence !== null) {
    $("confidence").value = made.confidence;
    const doubtful = made.confidence < DOUBTFUL ? ": more likely wrong than right" : "";
    $("percent").textContent = percent.format(made.confidence) + doubtful;
    $("general").textContent = made.general ? `surely ${made.general}` : "";
    $("trust").hidden = false;
  }
  if (!made.recalled) return;
  const { episode, confidence } = made.recalled;
  const name = episode.text ? `“${episode.text}”` : "a photo without a name";
  const sure = confidence !== null && confidence >= SURE;
  if (!sure && confidence !== null && confidence < 0.5) return; // resembles nothing that was remembered
  $("recalled").textContent = sure
    ? `Remembered as ${name}, ${percent.format(Math.min(confidence, 0.99))} sure.`
    : `A little like ${name}.`;
  $("recalled").hidden = false;
}

// A photo comes in.

$("file").onchange = $("capture").onchange = ({ target }) => {
  if (target.files.length) look(target.files[0]);
  target.value = "";
};
$("camera").onclick = async () => {
  const describe = async (frame) => (await json("POST", "caption", { photo: frame })).caption;
  if (!(await photograph(look, describe))) $("capture").click();
};
for (const name of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(name, (event) => {
    event.preventDefault();
    $("stage").classList.toggle("over", name === "dragover");
    if (name === "drop" && event.dataTransfer.files.length) look(event.dataTransfer.files[0]);
  });
}
document.addEventListener("paste", ({ clipboardData }) => {
  const file = [...clipboardData.files].find(({ type }) => type.startsWith("image/"));
  if (file) look(file);
});

// It is asked about, and named.

$("ask").onsubmit = (event) => {
  event.preventDefault();
  const about = photo;
  const question = $("question").value.trim();
  if (about && question) attempt(async () => {
    const found = await json("POST", "ask", { query: { question }, photo: about, signal: running.signal });
    const item = document.createElement("li");
    const answer = document.createElement("strong");
    answer.textContent = found.answer;
    item.append(question, answer);
    $("answers").prepend(item);
    $("question").select();
  });
};

$("remember").onsubmit = (event) => {
  event.preventDefault();
  const about = photo;
  const text = $("name").value.trim();
  if (about && text) attempt(async () => {
    const made = await json("POST", "remember", { query: { text }, photo: about });
    const lost = made.lost ? ` It took the place of “${made.lost}”.` : "";
    $("remembered").textContent = `Remembered in slot ${made.slot}.${lost} Show it again, from another side.`;
    $("name").value = "";
    await showMemory(failed);
    if (about === photo) await light(about, $("caption").textContent, running.signal);
  });
};

// What was there before.

let addresses = [];

async function showPast() {
  const entries = await past.entries();
  addresses.forEach((address) => URL.revokeObjectURL(address));
  addresses = entries.map((entry) => URL.createObjectURL(entry.photo));
  $("clear").hidden = !entries.length;
  $("nothing").hidden = entries.length > 0;
  $("history").replaceChildren(
    ...entries.map((entry, i) => {
      const image = Object.assign(document.createElement("img"), { src: addresses[i], alt: "", loading: "lazy" });
      const words = Object.assign(document.createElement("span"), { textContent: entry.caption });
      const button = Object.assign(document.createElement("button"), { type: "button" });
      button.append(image, words);
      button.onclick = () => {
        look(entry.photo, false);
        $("photo").scrollIntoView({ block: "nearest" });
      };
      const item = document.createElement("li");
      item.append(button);
      return item;
    }),
  );
}

$("clear").onclick = () => attempt(async () => {
  await past.clear();
  await showPast();
  $("file").focus();
});

// A server with a key.

let asking = null;

keys.ask = () => {
  asking ??= new Promise((resolve) => {
    $("unlock").reset();
    $("locked").onclose = () => {
      asking = null;
      resolve($("key").value || null);
    };
    $("locked").showModal();
  });
  return asking;
};

attempt(async () => {
  const about = await health();
  $("about").textContent = `${about.model}, on this machine. Nothing is sent anywhere else.`;
  $("memory").hidden = $("remember").hidden = !about.memory;
  await showPast();
  if (about.memory) await showMemory(failed);
});
