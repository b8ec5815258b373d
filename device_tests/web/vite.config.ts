import { createHash } from 'node:crypto';
import { createReadStream, existsSync, statSync } from 'node:fs';
import { normalize, resolve, sep } from 'node:path';
import { defaultClientConditions, defineConfig, type Connect, type Plugin } from 'vite';

// Threads and the browser's memory figure need a page that is isolated from other origins. A server that cannot send
// these headers serves the page too: it then runs on one thread.
const headers = {
  'Cross-Origin-Opener-Policy': 'same-origin',
  'Cross-Origin-Embedder-Policy': 'require-corp',
  'Cross-Origin-Resource-Policy': 'same-origin',
};

export default defineConfig({
  base: './',
  resolve: {
    // The runtime's threads are started from its own file; inside the worker's, they would start the worker again.
    conditions: ['onnxruntime-web-use-extern-wasm', ...defaultClientConditions],
  },
  worker: { format: 'es' },
  build: {
    target: 'es2023',
    assetsInlineLimit: 0,
    rolldownOptions: {
      input: { index: 'index.html', 'service-worker': 'src/service-worker.ts' },
      output: { entryFileNames: ({ name }) => (name === 'service-worker' ? '[name].js' : 'assets/[name]-[hash].js') },
    },
  },
  server: { headers },
  preview: { headers },
  plugins: [listFiles(), serveBundle()],
});

/** Tell the service worker which files the build has. */
function listFiles(): Plugin {
  return {
    name: 'list-files',
    enforce: 'post',
    generateBundle(_, bundle) {
      const worker = bundle['service-worker.js'];
      if (worker?.type !== 'chunk') throw new Error('the build has no service worker');
      const page = bundle['index.html'];
      if (page?.type !== 'asset') throw new Error('the build has no page');
      // WebGPU's runtime is twice as large, and few ask for it: it is fetched then.
      const own = new Set([worker.fileName, page.fileName]);
      const files = Object.keys(bundle).filter((name) => !own.has(name) && !/asyncify|webgpu/.test(name));
      const version = createHash('sha256').update(page.source).update(files.join()).digest('hex').slice(0, 12);
      worker.code = worker.code
        .replaceAll('__FILES__', JSON.stringify(files))
        .replaceAll('__VERSION__', JSON.stringify(version));
    },
  };
}

/** Serve the bundle that EDGEQKV_BUNDLE names beside the page, in `npm run dev` and `npm run preview`. */
function serveBundle(): Plugin {
  const folder = process.env.EDGEQKV_BUNDLE;
  const serve: Connect.NextHandleFunction = (request, response, next) => {
    const path = new URL(request.url ?? '/', 'http://localhost').pathname;
    if (folder === undefined || !path.startsWith('/bundle/')) return next();
    const file = resolve(folder, normalize(decodeURIComponent(path.slice('/bundle/'.length))));
    if (!file.startsWith(resolve(folder) + sep) || !existsSync(file) || !statSync(file).isFile()) {
      response.writeHead(404).end();
      return;
    }
    response.writeHead(200, { 'Content-Length': statSync(file).size });
    createReadStream(file).pipe(response);
  };
  return {
    name: 'serve-bundle',
    configureServer: (server) => void server.middlewares.use(serve),
    configurePreviewServer: (server) => void server.middlewares.use(serve),
  };
}
