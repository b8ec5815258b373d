/** The page: what is shown, and what the user's actions ask of the worker. */

import { deviceReport, whereAmI, type Measured } from './device-report';
import { factsOf, predictionsOf, type Fact } from './facts';
import { counted, seconds, size, speed } from './format';
import type { StopReason } from './generate';
import { stateBytes } from './manifest';
import { pageMemory } from './page-memory';
import type { Engine, Opened, Reply, Request, Run, Usage } from './protocol';

const ENDINGS: Record<StopReason, string> = {
  end_of_text: 'The model ended the text.',
  max_tokens: 'The number of tokens asked for is reached.',
  context_full: 'The context is full.',
  stopped: 'Stopped.',
};
const REPORT = 'report.html';
const FIRST_PROMPT = 'The coroutine then has a';

type Origin = Extract<Request, { kind: 'open' }>['from'];

const element = <Kind extends HTMLElement>(id: string): Kind => {
  const found = document.getElementById(id);
  if (!found) throw new Error(`the page has no #${id}`);
  return found as Kind;
};
const ui = {
  folder: element<HTMLInputElement>('folder'),
  bundleStatus: element('bundle-status'),
  engineField: element('engine-field'),
  engine: element<HTMLSelectElement>('engine'),
  engineStatus: element('engine-status'),
  reading: element<HTMLProgressElement>('reading'),
  nothing: element('nothing'),
  facts: element('facts'),
  predictions: element('predictions'),
  judgements: element('judgements'),
  report: element<HTMLAnchorElement>('report'),
  writing: element<HTMLFormElement>('writing'),
  prompt: element<HTMLTextAreaElement>('prompt'),
  temperature: element<HTMLInputElement>('temperature'),
  topK: element<HTMLInputElement>('top-k'),
  topP: element<HTMLInputElement>('top-p'),
  seed: element<HTMLInputElement>('seed'),
  maxTokens: element<HTMLInputElement>('max-tokens'),
  samplingSummary: element('sampling-summary'),
  generate: element<HTMLButtonElement>('generate'),
  stop: element<HTMLButtonElement>('stop'),
  reset: element<HTMLButtonElement>('reset'),
  given: element('given'),
  written: element('written'),
  filled: element<HTMLProgressElement>('filled'),
  filledWords: element('filled-words'),
  status: element('writing-status'),
  measures: element('measures'),
  load: element('load'),
  prefill: element('prefill'),
  decode: element('decode'),
  heap: element('heap'),
  device: element<HTMLInputElement>('device'),
  measure: element<HTMLButtonElement>('measure'),
  save: element<HTMLButtonElement>('save'),
  measureStatus: element('measure-status'),
  about: element('about'),
};

let worker = startWorker();
let origin: Origin | null = null;
let opened: Opened | null = null;
let state: 'empty' | 'opening' | 'ready' | 'writing' | 'measuring' = 'empty';
let measured: Measured | null = null;
/** Who waits for the worker's next reply of a kind, in a measurement. */
let awaited: { readonly kind: Reply['kind']; readonly resolve: (reply: Reply | null) => void } | null = null;
let tokensWritten = 0;

start();

function start(): void {
  // Browsers without folders (older phones) get a choice of several files, which does as well.
  ui.folder.webkitdirectory = 'webkitdirectory' in ui.folder;
  ui.prompt.value = FIRST_PROMPT;
  ui.folder.addEventListener('change', openPicked);
  ui.engine.addEventListener('change', () => void changeEngine());
  ui.engineField.hidden = !('gpu' in navigator);
  ui.writing.addEventListener('submit', (event) => {
    event.preventDefault();
    generate();
  });
  ui.writing.addEventListener('input', showSampling);
  ui.stop.addEventListener('click', stop);
  ui.reset.addEventListener('click', reset);
  ui.measure.addEventListener('click', () => void measure());
  ui.save.addEventListener('click', () => void save());
  document.addEventListener('keydown', (event) => {
    if (event.key === 'Escape') stop();
    if (event.key === 'Enter' && (event.ctrlKey || event.metaKey)) generate();
  });
  showSampling();
  open({ base: new URL('bundle/', location.href).href });
  if (import.meta.env.PROD && 'serviceWorker' in navigator) void keepForOffline();
  void whereAmI().then(({ device }) => (ui.device.value = device));
}

function startWorker(): Worker {
  const started = new Worker(new URL('./worker.ts', import.meta.url), { type: 'module' });
  started.onmessage = ({ data }: MessageEvent<Reply>) => hear(data);
  started.onerror = (event) => hear({ kind: 'failed', message: event.message || 'The worker could not be started.' });
  return started;
}

function ask(request: Request): void {
  worker.postMessage(request);
}

function hear(reply: Reply): void {
  if ('usage' in reply) showUsage(reply.usage);
  switch (reply.kind) {
    case 'progress':
      ui.bundleStatus.textContent = `${reply.doing}…`;
      showReading(reply.part);
      break;
    case 'opened':
      showOpened(reply.bundle);
      break;
    case 'nothing-served':
      become('empty');
      say(ui.bundleStatus, 'No bundle is open: none lies beside this page.');
      break;
    case 'prefilled':
      ui.prefill.textContent = speed(reply.run);
      break;
    case 'token':
      tokensWritten += 1;
      if (state === 'writing') ui.written.append(reply.text);
      if (reply.decode) ui.decode.textContent = speed(reply.decode);
      break;
    case 'ended':
      showEnded(reply.why, reply.decode);
      break;
    case 'reset':
      clearText();
      say(ui.status, 'Ready for a new text.');
      break;
    case 'failed':
      showFailure(reply.message);
      break;
  }
  if (awaited && (reply.kind === awaited.kind || reply.kind === 'failed')) {
    awaited.resolve(reply.kind === 'failed' ? null : reply);
    awaited = null;
  }
}

// Bundles

function openPicked(): void {
  const files = Array.from(ui.folder.files ?? []);
  ui.folder.value = ''; // so that the same folder can be picked again
  if (files.length === 0) return;
  open({ picked: files.map((file) => ({ path: file.webkitRelativePath || file.name, file })) });
}

function open(from: Origin): void {
  if (state === 'writing') stop();
  origin = from;
  become('opening');
  ask({ kind: 'open', from, engine: engine() });
}

/** What computes, as the user chose. */
function engine(): Engine {
  return ui.engine.value === 'webgpu' ? 'webgpu' : 'wasm';
}

/** Open the bundle anew in a worker that computes as the user chose, if the browser has what it takes. */
async function changeEngine(): Promise<void> {
  if (state === 'measuring') {
    ui.engine.value = engine() === 'webgpu' ? 'wasm' : 'webgpu';
    say(ui.engineStatus, 'Once the measurement is done.');
    return;
  }
  if (engine() === 'webgpu') {
    // Asked only now: a browser without a graphics unit complains about the question.
    const { gpu } = navigator as { gpu?: { requestAdapter(): Promise<object | null> } };
    const adapter = await gpu?.requestAdapter().catch(() => null);
    if (!adapter) {
      ui.engine.value = 'wasm';
      say(ui.engineStatus, 'This browser has no graphics unit that WebGPU could use.');
      return;
    }
  }
  say(ui.engineStatus, '');
  worker.terminate();
  worker = startWorker();
  if (origin) open(origin);
}

function showOpened(bundle: Opened): void {
  opened = bundle;
  showUsage(bundle.usage);
  if (state === 'opening') {
    measured = null;
    clearText();
    ui.prefill.textContent = ui.decode.textContent = '–';
    become('ready');
    say(ui.bundleStatus, '');
    say(ui.status, '');
    say(ui.measureStatus, '');
  }
  ui.facts.replaceChildren(...factsOf(bundle).map(factElement));
  ui.facts.hidden = false;
  const predictions = predictionsOf(bundle);
  ui.judgements.replaceChildren(...predictions.map(factElement));
  ui.predictions.hidden = predictions.length === 0;
  linkReport(bundle);
  ui.load.textContent = seconds(bundle.loadSeconds);
  const { version, threads } = bundle.runtime;
  const place = bundle.runtime.engine === 'webgpu' ? 'on WebGPU and in WebAssembly' : 'in WebAssembly';
  ui.about.dataset.runtime = `ONNX Runtime ${version} ${place}, ${counted(threads, 'thread')}.`;
  showAbout();
}

/** Let the budget's page be opened, or saved where the bundle was picked: a picked page would run as this one's own. */
function linkReport({ manifest }: Opened): void {
  URL.revokeObjectURL(ui.report.href);
  ui.report.hidden = true;
  if (!origin || !(REPORT in manifest.files)) return;
  if ('base' in origin) {
    ui.report.href = new URL(REPORT, origin.base).href;
    ui.report.removeAttribute('download');
  } else {
    const file = origin.picked.find(({ path }) => `/${path}`.endsWith(`/${REPORT}`))?.file;
    if (!file) return;
    ui.report.href = URL.createObjectURL(file);
    ui.report.download = REPORT;
  }
  ui.report.hidden = false;
}

/** How far a bundle is read: a part of it, or that nobody knows. */
function showReading(part: number | null): void {
  if (part === null) ui.reading.removeAttribute('value');
  else ui.reading.value = part;
}

function factElement({ name, value, note, tone }: Fact): HTMLElement {
  const row = document.createElement('div');
  const [term, detail, words] = ['dt', 'dd', 'span'].map((tag) => document.createElement(tag));
  if (!term || !detail || !words) throw new Error('unreachable');
  term.textContent = name;
  words.textContent = value;
  if (tone) words.className = tone;
  detail.append(words);
  if (note) {
    const small = document.createElement('small');
    small.textContent = note;
    detail.append(' ', small);
  }
  row.append(term, detail);
  return row;
}

// Text

function generate(): void {
  if (state !== 'ready') return;
  clearText();
  become('writing');
  ui.given.textContent = ui.prompt.value;
  ui.written.setAttribute('aria-busy', 'true'); // heard as a whole when it is done
  say(ui.status, 'Writing…');
  ask({
    kind: 'generate',
    prompt: ui.prompt.value,
    sampling: {
      temperature: ui.temperature.valueAsNumber || 0,
      topK: ui.topK.valueAsNumber || 0,
      topP: ui.topP.value === '' ? 1 : ui.topP.valueAsNumber,
      seed: ui.seed.valueAsNumber || 0,
    },
    maxTokens: ui.maxTokens.value === '' ? null : ui.maxTokens.valueAsNumber,
  });
}

function stop(): void {
  if (state === 'writing') ask({ kind: 'stop' });
}

function reset(): void {
  if (state === 'writing') stop();
  if (opened) ask({ kind: 'reset' });
  ui.prompt.focus();
}

function showEnded(why: StopReason, decode: Run | null): void {
  ui.written.setAttribute('aria-busy', 'false');
  if (state !== 'writing') return;
  become('ready');
  const pace = decode ? `, ${speed(decode)}` : '';
  say(ui.status, `${ENDINGS[why]} ${counted(tokensWritten, 'token')}${pace}.`);
}

function clearText(): void {
  tokensWritten = 0;
  ui.given.textContent = ui.written.textContent = '';
}

function showSampling(): void {
  const temperature = ui.temperature.valueAsNumber || 0;
  ui.samplingSummary.textContent = temperature === 0 ? 'greedy' : `temperature ${temperature}`;
}

// Measurements

function showUsage({ position, capacity, heapBytes }: Usage): void {
  ui.filled.max = capacity || 1;
  ui.filled.value = position;
  ui.filledWords.textContent = capacity ? `${position} of ${capacity} positions` : '';
  ui.heap.textContent = size(heapBytes);
}

/** Load the bundle in a fresh worker and fill the whole context, as every device report does. */
async function measure(): Promise<void> {
  if (state !== 'ready' || !origin) return;
  worker.terminate();
  worker = startWorker();
  clearText();
  become('measuring');
  say(ui.status, '');
  say(ui.measureStatus, 'Filling the whole context…');
  const before = await pageMemory();
  ask({ kind: 'open', from: origin, engine: engine() });
  const bundle = (await next('opened'))?.bundle;
  if (!bundle) return;
  ask({ kind: 'measure' });
  const prefill = (await next('prefilled'))?.run;
  const decode = prefill && (await next('ended'))?.decode;
  if (!decode) return;
  ui.decode.textContent = speed(decode);
  say(ui.measureStatus, 'Measured. Waiting for the browser to count the page’s memory, which can take a minute…');
  const after = await pageMemory();
  // What the graphics unit holds is in no figure that a browser tells.
  const told = before !== null && after !== null && bundle.runtime.engine === 'wasm';
  const memory = told ? { before, after } : null;
  measured = { bundle, prefill, decode, memory, stateBytes: stateBytes(bundle.manifest.artifact) };
  become('ready');
  const page = memory ? `, the page takes ${size(memory.after)}` : '';
  const fed = `${counted(prefill.tokens, 'token')} prefilled, ${counted(decode.tokens, 'token')} decoded`;
  say(ui.measureStatus, `Measured: ${fed}${page}.`);
}

/** The worker's next reply of a kind; null if it failed, which the page says already. */
function next<Kind extends Reply['kind']>(kind: Kind): Promise<Extract<Reply, { kind: Kind }> | null> {
  return new Promise((resolve) => {
    awaited = { kind, resolve: (reply) => resolve(reply as Extract<Reply, { kind: Kind }> | null) };
  });
}

async function save(): Promise<void> {
  if (!measured) return;
  const place = await whereAmI();
  const device = ui.device.value.trim();
  if (!device) {
    ui.device.focus();
    ui.device.setCustomValidity('Say which device this is: browsers do not tell.');
    ui.device.reportValidity();
    ui.device.setCustomValidity('');
    return;
  }
  const link = document.createElement('a');
  const report = new Blob([deviceReport(measured, { ...place, device }, new Date())], { type: 'application/json' });
  link.href = URL.createObjectURL(report);
  link.download = 'device-report.json';
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

// The page as a whole

function become(next: typeof state): void {
  state = next;
  const ready = state === 'ready';
  const busy = state === 'writing';
  document.body.dataset.state = state;
  ui.reading.hidden = state !== 'opening';
  ui.nothing.hidden = state !== 'empty';
  ui.writing.inert = !(ready || busy);
  ui.measures.inert = !(ready || busy);
  enable(ui.generate, ready);
  enable(ui.stop, busy);
  enable(ui.reset, ready || busy);
  enable(ui.measure, ready);
  enable(ui.save, ready && measured !== null);
}

/** Not `disabled`, which would take the focus away from under the user. */
function enable(button: HTMLButtonElement, able: boolean): void {
  button.setAttribute('aria-disabled', String(!able));
}

function say(place: HTMLElement, words: string): void {
  place.textContent = words;
  place.classList.remove('bad');
}

function showFailure(message: string): void {
  const opening = state === 'opening' || !opened;
  const place = opening ? ui.bundleStatus : ui.status;
  say(place, message);
  place.classList.add('bad');
  ui.written.setAttribute('aria-busy', 'false');
  if (opening) {
    opened = null;
    ui.facts.hidden = true;
    ui.predictions.hidden = true;
  }
  become(opening ? 'empty' : 'ready');
}

async function keepForOffline(): Promise<void> {
  await navigator.serviceWorker.register('service-worker.js').catch(() => undefined);
  await navigator.serviceWorker.ready;
  ui.about.dataset.offline = ' This page is kept in the browser: it opens without a network.';
  showAbout();
}

function showAbout(): void {
  ui.about.textContent = `${ui.about.dataset.runtime ?? ''}${ui.about.dataset.offline ?? ''}`;
}
