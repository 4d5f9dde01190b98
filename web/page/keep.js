// Memory files in this browser's IndexedDB, one for each model.

const STORE = "memories";

async function transact(mode, work) {
  const database = await new Promise((resolve, reject) => {
    const opened = indexedDB.open("bitmar-memory", 1);
    opened.onupgradeneeded = () => opened.result.createObjectStore(STORE);
    opened.onsuccess = () => resolve(opened.result);
    opened.onerror = () => reject(opened.error);
  });
  try {
    return await new Promise((resolve, reject) => {
      const transaction = database.transaction(STORE, mode);
      const request = work(transaction.objectStore(STORE));
      transaction.oncomplete = () => resolve(request.result);
      transaction.onerror = transaction.onabort = () => reject(transaction.error);
    });
  } finally {
    database.close();
  }
}

// The bytes that were kept for this model, if any.
export function kept(model) {
  return transact("readonly", (store) => store.get(model));
}

export async function keep(model, file) {
  await transact("readwrite", (store) => store.put(file, model));
  navigator.storage?.persist?.(); // asks that it is not thrown away when space runs out
}
