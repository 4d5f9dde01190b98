// The page without a network: its files as they were built together. The model is kept by bitmar/fetched.js.

importScripts("files.js"); // BITMAR: { version, files }

const NAME = `bitmar-page-${BITMAR.version}`;
const addresses = new Set(BITMAR.files.map((file) => new URL(file, registration.scope).href));

addEventListener("install", (event) => {
  skipWaiting();
  event.waitUntil(
    caches.open(NAME).then((cache) => cache.addAll([...addresses].map((address) => new Request(address, { cache: "reload" })))),
  );
});

addEventListener("activate", (event) => {
  event.waitUntil(
    (async () => {
      for (const name of await caches.keys()) if (name.startsWith("bitmar-page-") && name !== NAME) await caches.delete(name);
      await clients.claim();
    })(),
  );
});

addEventListener("fetch", (event) => {
  const address = new URL(event.request.url);
  address.search = address.hash = "";
  if (event.request.method !== "GET" || !addresses.has(address.href)) return;
  event.respondWith(caches.open(NAME).then(async (cache) => (await cache.match(address.href)) ?? fetch(event.request)));
});
