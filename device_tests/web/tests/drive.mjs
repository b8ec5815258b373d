// Drives the built page in a real browser and writes down what happened, for check.py to judge the numbers.
//
//   node tests/drive.mjs PLAN.json OUT
//
// PLAN.json: { browser, prompt, steps, text: { prompt, tokens }, bundles: { NAME: FOLDER }, budgeted: NAME, damaged,
//              graphics: { bundle: NAME, steps } }
// OUT: a folder for result.json, NAME.logits (float32, one row a step), device-report.json and screenshots.

import assert from 'node:assert/strict';
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { chromium } from 'playwright-core';
import { preview } from 'vite';

const PHONE = { viewport: { width: 390, height: 844 }, deviceScaleFactor: 2, hasTouch: true, isMobile: true };
const DESKTOP = { viewport: { width: 1280, height: 900 } };
const PATIENCE = 60_000;

const [planFile, out] = process.argv.slice(2);
const plan = JSON.parse(await readFile(planFile, 'utf8'));
await mkdir(out, { recursive: true });
const complaints = [];
const result = { bundles: {}, complaints };

const QUIET = ['--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update'];
// Of a graphics unit that is computed by the processor.
const EMULATED = ['--enable-unsafe-webgpu', '--enable-unsafe-swiftshader', '--use-webgpu-adapter=swiftshader'];

let browser = await start(['--disable-gpu']);
try {
  for (const [name, folder] of Object.entries(plan.bundles)) {
    await step(`${name}: text, logits, bytes`, () => reads(name, folder));
  }
  const budgeted = plan.bundles[plan.budgeted];
  await step('opens and writes without a network', () => opensOffline(budgeted));
  await step('stops and starts over', () => stopsAndResets(budgeted));
  await step('can be worked by keyboard, and everything has a name', () => hasNames(budgeted));
  await step('opens a picked folder, refuses a damaged one', () => opensPicked(budgeted, plan.damaged));
  await step('measures the device', () => measures(budgeted));
  await step('fits a phone and a desktop, light and dark', () => looks(budgeted));
  await browser.close();
  browser = await start(EMULATED);
  await step(`${plan.graphics.bundle}: on a graphics unit`, () => readsOnGraphics(plan.bundles[plan.graphics.bundle]));
  await step('says what the graphics unit lacks', () => lacksHalf(budgeted));
} finally {
  await browser.close();
}
assert.deepEqual(complaints, [], 'the page complained');
await writeFile(join(out, 'result.json'), JSON.stringify(result));

function start(args) {
  return chromium.launch({ executablePath: plan.browser, args: ['--no-sandbox', '--disable-sync', ...QUIET, ...args] });
}

async function step(words, act) {
  const started = performance.now();
  await act();
  console.log(`${words}: ok, ${((performance.now() - started) / 1000).toFixed(1)} s`);
}

/** A page served with a bundle beside it (or none), and how many bytes went out for each path. */
async function withPage(folder, options, use) {
  if (folder) process.env.EDGEQKV_BUNDLE = folder;
  else delete process.env.EDGEQKV_BUNDLE;
  const served = new Map();
  const server = await preview({
    preview: { port: 0, host: '127.0.0.1' },
    logLevel: 'warn',
    plugins: [
      {
        name: 'count',
        enforce: 'pre', // before the files are served
        configurePreviewServer: (started) => void started.middlewares.use(counting(served)),
      },
    ],
  });
  const url = `http://localhost:${server.httpServer.address().port}/`;
  const context = await browser.newContext(options);
  context.setDefaultTimeout(PATIENCE);
  try {
    const page = await context.newPage();
    page.on('console', (message) => {
      if (['error', 'warning'].includes(message.type())) complaints.push(message.text());
    });
    page.on('pageerror', (error) => complaints.push(String(error)));
    await page.goto(url);
    await use(page, { url, served, server, context });
  } finally {
    await context.close();
    await server.close();
  }
}

function counting(served) {
  return (request, response, next) => {
    const path = new URL(request.url, 'http://localhost').pathname;
    let bytes = 0;
    for (const method of ['write', 'end']) {
      const original = response[method].bind(response);
      response[method] = (chunk, ...rest) => {
        if (chunk && typeof chunk !== 'function') bytes += Buffer.byteLength(chunk);
        return original(chunk, ...rest);
      };
    }
    response.on('finish', () => served.set(path, Math.max(served.get(path) ?? 0, bytes)));
    next();
  };
}

function become(page, state) {
  return page.waitForFunction((wanted) => document.body.dataset.state === wanted, state);
}

function button(page, name) {
  return page.getByRole('button', { name, exact: true });
}

async function write(page, prompt, tokens) {
  await page.getByLabel('Prompt').fill(prompt);
  if (tokens !== null) {
    const most = page.getByLabel('Max tokens');
    if (!(await most.isVisible())) await page.getByText('Sampling').click();
    await most.fill(String(tokens));
  }
  await button(page, 'Generate').click();
  await become(page, 'ready');
  return page.locator('#page p').textContent();
}

async function reads(name, folder) {
  await withPage(folder, DESKTOP, async (page, { url, served }) => {
    await become(page, 'ready');
    const text = await write(page, plan.text.prompt, plan.text.tokens);
    const run = await page.evaluate(greedyRun, asked(url, 'wasm', plan.steps));
    await writeFile(join(out, `${name}.logits`), new Float32Array(run.logits.flat()));
    const sum = (keep) => [...served].reduce((bytes, [path, size]) => bytes + (keep(path) ? size : 0), 0);
    result.bundles[name] = {
      text,
      ids: run.ids,
      tokens: run.tokens,
      bundleBytes: sum((path) => path.startsWith('/bundle/')),
      runtimeBytes: sum((path) => path.includes('/ort-wasm')),
      pageBytes: sum((path) => !path.startsWith('/bundle/') && !path.includes('/ort-wasm')),
    };
  });
}

function asked(url, engine, steps) {
  return { base: `${url}bundle/`, prompt: plan.prompt, steps, engine };
}

/** The same run on the graphics unit, chosen as a user does; nothing where the browser offers none. */
async function readsOnGraphics(folder) {
  await withPage(folder, DESKTOP, async (page, { url }) => {
    await become(page, 'ready');
    if (!(await page.evaluate(async () => Boolean(await navigator.gpu?.requestAdapter())))) return;
    await page.getByLabel('Runs on').selectOption('webgpu');
    await page.getByText('on WebGPU and in WebAssembly').waitFor();
    const run = await page.evaluate(greedyRun, asked(url, 'webgpu', plan.graphics.steps));
    await writeFile(join(out, 'webgpu.logits'), new Float32Array(run.logits.flat()));
    result.graphics = { ids: run.ids, tokens: run.tokens };
  });
}

/** Quantized weights take half-precision numbers, which the emulated adapter does not have. */
async function lacksHalf(folder) {
  await withPage(folder, DESKTOP, async (page) => {
    await become(page, 'ready');
    const lacks = async () => (await navigator.gpu?.requestAdapter())?.features.has('shader-f16') === false;
    if (!(await page.evaluate(lacks))) return;
    await page.getByLabel('Runs on').selectOption('webgpu');
    await page.getByText('This graphics unit knows no half-precision numbers').waitFor();
    await page.getByLabel('Runs on').selectOption('wasm');
    await become(page, 'ready');
  });
}

/** Runs in the page: a greedy run of the page's own worker, with the logits. */
async function greedyRun({ base, prompt, steps, engine }) {
  const script = performance
    .getEntriesByType('resource')
    .map((entry) => entry.name)
    .find((name) => /\/worker-[^/]*\.js$/.test(name));
  const worker = new Worker(script, { type: 'module' });
  const run = { ids: [], tokens: [], logits: [] };
  await new Promise((resolve, reject) => {
    worker.onmessage = ({ data }) => {
      if (data.kind === 'opened') {
        const sampling = { temperature: 0, topK: 0, topP: 1, seed: 0 };
        worker.postMessage({ kind: 'generate', prompt, sampling, maxTokens: steps, logits: true });
      } else if (data.kind === 'prefilled') {
        run.ids = data.ids;
      } else if (data.kind === 'token') {
        run.tokens.push(data.token);
        run.logits.push([...data.logits]);
      } else if (data.kind === 'ended') resolve();
      else if (data.kind === 'failed') reject(new Error(data.message));
    };
    worker.postMessage({ kind: 'open', from: { base }, engine });
  });
  worker.terminate();
  return run;
}

async function opensOffline(folder) {
  await withPage(folder, DESKTOP, async (page, { server, context }) => {
    await become(page, 'ready');
    await page.getByText('opens without a network').waitFor();
    const before = await write(page, plan.text.prompt, plan.text.tokens);
    await context.setOffline(true);
    await server.close();
    await page.reload();
    await become(page, 'ready');
    assert.equal(await write(page, plan.text.prompt, plan.text.tokens), before);
  });
}

async function stopsAndResets(folder) {
  await withPage(folder, DESKTOP, async (page) => {
    await become(page, 'ready');
    for (const halt of [() => button(page, 'Stop').click(), () => page.keyboard.press('Escape')]) {
      await button(page, 'Generate').click();
      await page.waitForFunction(() => document.getElementById('written').textContent.length > 20);
      await halt();
      await become(page, 'ready');
      await page.getByText('Stopped.').waitFor();
      const filled = await page.getByRole('progressbar', { name: 'Context' }).evaluate(({ value, max }) => value / max);
      assert.ok(filled > 0 && filled < 1, `stopped at ${filled}`);
    }
    await button(page, 'Reset').click();
    await page.getByText('Ready for a new text.').waitFor();
    assert.equal(await page.locator('#page p').textContent(), '');
    assert.equal(await page.getByRole('progressbar', { name: 'Context' }).evaluate(({ value }) => value), 0);
    assert.equal(await page.evaluate(() => document.activeElement.id), 'prompt');
  });
}

async function hasNames(folder) {
  await withPage(folder, DESKTOP, async (page) => {
    await become(page, 'ready');
    const order = [];
    for (let press = 0; press < 11; press++) {
      await page.keyboard.press('Tab');
      order.push(await page.evaluate(() => document.activeElement.id || document.activeElement.localName));
    }
    const wanted = ['folder', 'engine', 'report', 'prompt', 'summary', 'generate', 'stop', 'reset', 'device', 'measure', 'save'];
    assert.deepEqual(order, wanted);
    const tree = await page.locator('body').ariaSnapshot();
    for (const named of [
      'heading "edgeqkv" [level=1]',
      'region "Bundle"',
      'button "Open a bundle…"',
      'form "Text"',
      'combobox "Runs on"',
      'link "The whole report"',
      'textbox "Prompt"',
      'button "Generate"',
      'article "Written text"',
      'progressbar "Context"',
      'region "Measurements"',
      'textbox "This device"',
    ]) {
      assert.ok(tree.includes(named), `no ${named} in\n${tree}`);
    }
    // This browser has no adapter: it is said, and the page goes on with the processor.
    await page.getByLabel('Runs on').selectOption('webgpu');
    await page.getByText('no graphics unit that WebGPU could use').waitFor();
    complaints.splice(0, complaints.length, ...complaints.filter((text) => !text.includes('No available adapters')));
    assert.equal(await page.getByLabel('Runs on').inputValue(), 'wasm');
    // By keyboard alone, and heard once it is whole.
    await page.getByLabel('Prompt').focus();
    await page.keyboard.press('Control+Enter');
    await become(page, 'writing');
    assert.equal(await page.locator('#written').getAttribute('aria-busy'), 'true');
    await page.keyboard.press('Escape');
    await become(page, 'ready');
    assert.equal(await page.locator('#written').getAttribute('aria-busy'), 'false');
  });
}

async function opensPicked(folder, damaged) {
  await withPage(null, DESKTOP, async (page) => {
    await page.getByText('No bundle is open').waitFor();
    await page.getByText('edgeqkv export model.pt --target onnx').waitFor();
    assert.ok(!(await page.locator('#reading').isVisible()));
    await page.screenshot({ path: join(out, 'nothing-light.png'), fullPage: true });
    complaints.splice(0, complaints.length, ...complaints.filter((text) => !text.includes('404'))); // it looked for one
    await page.locator('#folder').setInputFiles(folder);
    await become(page, 'ready');
    assert.equal(await write(page, plan.text.prompt, plan.text.tokens), result.bundles[plan.budgeted].text);
    await page.locator('#folder').setInputFiles(damaged);
    await page.getByText('is not the file that was exported').waitFor();
    assert.equal(await page.locator('#writing').getAttribute('inert'), '');
  });
}

async function measures(folder) {
  await withPage(folder, DESKTOP, async (page) => {
    await become(page, 'ready');
    // Chromium takes a minute for each of the two figures that a measurement asks for.
    await page.evaluate(() => {
      const told = [2_000_000, 20_000_000];
      performance.measureUserAgentSpecificMemory = async () => ({ bytes: told.shift() });
    });
    await button(page, 'Measure').click();
    await page.getByText('Measured: 256 tokens prefilled, 256 tokens decoded').waitFor();
    await page.getByLabel('This device').fill('a test');
    const download = page.waitForEvent('download');
    await button(page, 'Save device-report.json').click();
    await (await download).saveAs(join(out, 'device-report.json'));
  });
}

async function looks(folder) {
  for (const [device, options] of Object.entries({ phone: PHONE, desktop: DESKTOP })) {
    for (const colorScheme of ['light', 'dark']) {
      await withPage(folder, { ...options, colorScheme }, async (page) => {
        await become(page, 'ready');
        await write(page, plan.text.prompt, 60);
        await page.getByText('opens without a network').waitFor();
        await page.screenshot({ path: join(out, `${device}-${colorScheme}.png`), fullPage: true });
        const wide = await page.evaluate(() => document.documentElement.scrollWidth - window.innerWidth);
        assert.ok(wide <= 0, `the page is ${wide} px wider than a ${device}`);
        const small = await page.getByRole('button').evaluateAll((all) =>
          all.filter((each) => each.getBoundingClientRect().height < 44).map((each) => each.textContent),
        );
        assert.deepEqual(small, [], 'buttons too small for a finger');
      });
    }
  }
}
