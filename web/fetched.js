// Files by address, fetched once: what was fetched before comes from the browser's Cache API where that can be had.

import { BitMarError } from "./engine.js";

const CACHE = "bitmar-models";

// The bytes at an address. sha256: what they must hash to, in hexadecimal; it also tells a new file from an old one under
// the same address. onProgress: called with a share from 0 to 1. cache: false fetches anew and keeps nothing.
export async function fetched(address, { sha256, onProgress, cache = true } = {}) {
  const url = new URL(address, globalThis.location?.href ?? `file://${globalThis.process?.cwd()}/`);
  if (url.protocol === "file:") return fromDisk(url);
  const kept = cache ? await globalThis.caches?.open(CACHE).catch(() => null) : null;
  const old = await (await kept?.match(url))?.arrayBuffer();
  if (old && (!sha256 || (await digest(old)) === sha256)) return new Uint8Array(old);
  const bytes = await download(url, onProgress);
  if (sha256 && (await digest(bytes)) !== sha256) {
    throw new BitMarError(`${url} came damaged, or is another file than it was: load the page again.`);
  }
  // A full disk or a private window: it is fetched again next time.
  await kept?.put(url, new Response(bytes)).catch(() => null);
  return bytes;
}

async function download(url, onProgress) {
  let response;
  try {
    response = await fetch(url);
  } catch (error) {
    throw new BitMarError(`${url} does not answer: is there a connection?`, { cause: error });
  }
  if (!response.ok) throw new BitMarError(`${url} answers ${response.status}.`);
  const whole = Number(response.headers.get("content-length"));
  const parts = [];
  let size = 0;
  for (const reader = response.body.getReader(); ; ) {
    const { value, done } = await reader.read();
    if (done) break;
    parts.push(value);
    size += value.length;
    if (whole) onProgress?.(Math.min(1, size / whole));
  }
  return new Uint8Array(await new Blob(parts).arrayBuffer());
}

async function fromDisk(url) {
  const { readFile } = await import("node:fs/promises");
  try {
    return new Uint8Array(await readFile(url));
  } catch (error) {
    throw new BitMarError(`${url.pathname} cannot be read: ${error.code ?? error.message}`, { cause: error });
  }
}

// None where the page is not served over HTTPS or from this machine: then nothing is compared.
async function digest(bytes) {
  if (!globalThis.crypto?.subtle) return undefined;
  const hash = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  return [...hash].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}
