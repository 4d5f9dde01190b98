// Earlier photos with their captions, in this browser's IndexedDB; without one (a private window) for this visit only.

const MOST = 60;
const EDGE = 1024; // pixels of the longer side that is kept

const visit = [];
let opened;

function open() {
  opened ??= new Promise((resolve) => {
    try {
      const request = indexedDB.open("bitmar", 1);
      request.onupgradeneeded = () => request.result.createObjectStore("photos", { keyPath: "time" });
      request.onsuccess = () => resolve(request.result);
      request.onerror = () => resolve(null);
    } catch {
      resolve(null);
    }
  });
  return opened;
}

async function transact(mode, work) {
  const database = await open();
  if (!database) return null;
  return new Promise((resolve, reject) => {
    const transaction = database.transaction("photos", mode);
    const request = work(transaction.objectStore("photos"));
    transaction.oncomplete = () => resolve(request.result);
    transaction.onerror = transaction.onabort = () => reject(transaction.error);
  });
}

// All entries {time, photo, caption}, the latest first.
export async function entries() {
  const kept = (await transact("readonly", (store) => store.getAll()).catch(() => null)) ?? visit;
  return [...kept].sort((a, b) => b.time - a.time);
}

export async function add(photo, caption) {
  const entry = { time: Date.now(), photo: await smaller(photo), caption };
  visit.push(entry);
  try {
    await transact("readwrite", (store) => store.put(entry));
    for (const old of (await entries()).slice(MOST)) {
      await transact("readwrite", (store) => store.delete(old.time));
    }
  } catch {
    // A full disk: the entry lasts as long as this visit.
  }
}

export async function clear() {
  visit.length = 0;
  await transact("readwrite", (store) => store.clear()).catch(() => null);
}

async function smaller(photo) {
  try {
    const bitmap = await createImageBitmap(photo);
    const scale = Math.min(1, EDGE / Math.max(bitmap.width, bitmap.height));
    const canvas = new OffscreenCanvas(Math.round(bitmap.width * scale), Math.round(bitmap.height * scale));
    canvas.getContext("2d").drawImage(bitmap, 0, 0, canvas.width, canvas.height);
    bitmap.close();
    return await canvas.convertToBlob({ type: "image/jpeg", quality: 0.85 });
  } catch {
    return photo; // a format that this browser cannot draw
  }
}
