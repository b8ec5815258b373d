/**
 * Keeps the page itself, and the runtime, for use without a network. Bundles are kept by `ServedSource`.
 *
 * The build puts the list of its files, whose names carry a hash of their content, in the place of `__FILES__`: another
 * build is another service worker.
 */

declare const __FILES__: readonly string[];
declare const __VERSION__: string;

const worker = self as unknown as ServiceWorkerGlobalScope;
const CACHE = `edgeqkv-page-${__VERSION__}`;
const FILES = new Set(['./', ...__FILES__].map((name) => new URL(name, worker.location.href).href));

worker.addEventListener('install', (event) => {
  event.waitUntil(
    caches
      .open(CACHE)
      .then((cache) => cache.addAll([...FILES]))
      .then(() => worker.skipWaiting()),
  );
});

worker.addEventListener('activate', (event) => {
  event.waitUntil(
    caches
      .keys()
      .then((names) => names.filter((name) => name.startsWith('edgeqkv-page-') && name !== CACHE))
      .then((old) => Promise.all(old.map((name) => caches.delete(name))))
      .then(() => worker.clients.claim()),
  );
});

worker.addEventListener('fetch', (event) => {
  const { request } = event;
  if (!FILES.has(request.url)) return;
  event.respondWith(
    caches
      .open(CACHE)
      // Names carry their content's hash, so whatever a server varies a response by, it is this one.
      .then((cache) => cache.match(request, { ignoreVary: true }))
      .then((kept) => kept ?? fetch(request)),
  );
});
