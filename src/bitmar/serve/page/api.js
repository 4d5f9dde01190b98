// The server's endpoints: a photo's file is the body, everything else the query.

const KEY = "bitmar-key";

export class ApiError extends Error {}

// Asks for the server's key; the page sets what shows the dialog.
export const keys = { ask: async () => null };

export async function call(method, path, { query = {}, photo = null, signal } = {}) {
  const url = new URL(`v1/${path}`, document.baseURI);
  const headers = {};
  let body;
  if (photo) {
    headers["Content-Type"] = photo.type.startsWith("image/") ? photo.type : "application/octet-stream";
    for (const [name, value] of Object.entries(query)) url.searchParams.set(name, value);
    body = photo;
  } else if (method === "POST") {
    headers["Content-Type"] = "application/json";
    body = JSON.stringify(query);
  }
  for (;;) {
    const key = sessionStorage.getItem(KEY);
    if (key) headers.Authorization = `Bearer ${key}`;
    let response;
    try {
      response = await fetch(url, { method, headers, body, signal });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new ApiError("The server does not answer: is it still running?");
    }
    if (response.status === 401) {
      const given = await keys.ask();
      if (given) {
        sessionStorage.setItem(KEY, given);
        continue;
      }
    }
    if (!response.ok) throw new ApiError(await reason(response));
    return response;
  }
}

export async function json(method, path, options) {
  return (await call(method, path, options)).json();
}

async function reason(response) {
  try {
    const { error } = await response.json();
    return error.message[0].toUpperCase() + error.message.slice(1);
  } catch {
    return `The server answers ${response.status}.`;
  }
}

// What answers here: the model's name, and whether it has a memory.
export async function health() {
  return (await fetch(new URL("health", document.baseURI))).json();
}

// Server-sent events of an answer, as [name, document].
export async function* events(response) {
  let held = "";
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    held += value;
    const parts = held.split("\n\n");
    held = parts.pop();
    for (const part of parts) {
      let name = "message";
      let data = "";
      for (const line of part.split("\n")) {
        if (line.startsWith("event: ")) name = line.slice(7);
        if (line.startsWith("data: ")) data += line.slice(6);
      }
      const found = JSON.parse(data);
      if (found.error) throw new ApiError(found.error.message);
      yield [name, found];
    }
  }
}
