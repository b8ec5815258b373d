/** The worker that holds the model: it opens bundles and writes text, so that the page never waits. */

import { GREEDY, generate, type Options, type StopReason } from './generate';
import { heapBytes, watchHeap } from './heap';
import { BundleError, parseManifest, type Artifact } from './manifest';
import type { Engine, Reply, Request, Run, Usage } from './protocol';
import { OnnxRunner } from './runner';
import { runtimeFor, threads } from './runtime';
import { Session, Stopped } from './session';
import { NothingServed, PickedSource, ServedSource, readChecked, sha256, type Bytes, type Source } from './source';
import { TextStream, Tokenizer } from './text';

const BUDGET = 'report.json';

interface Model {
  readonly session: Session;
  readonly runner: OnnxRunner;
  readonly tokenizer: Tokenizer | null;
  readonly eosTokenIds: readonly number[];
}

let model: Model | null = null;
let stopping = false;

watchHeap();

// One request after the other; a stop is heard in between.
let last: Promise<void> = Promise.resolve();
self.onmessage = ({ data }: MessageEvent<Request>) => {
  if (data.kind === 'stop') stopping = true;
  else last = last.then(() => answer(data)).catch(failed);
};

async function answer(request: Exclude<Request, { kind: 'stop' }>): Promise<void> {
  switch (request.kind) {
    case 'open':
      return open(
        'base' in request.from ? new ServedSource(request.from.base) : new PickedSource(request.from.picked),
        request.engine,
      );
    case 'generate': {
      const { tokenizer, eosTokenIds } = opened();
      if (!tokenizer) throw new BundleError('This bundle holds no tokenizer. Export it with --tokenizer.');
      const ids = tokenizer.encode(request.prompt);
      if (ids.length === 0) throw new BundleError('The prompt is empty. Write at least one character.');
      const { sampling, maxTokens } = request;
      return write(ids, { sampling, maxTokens, eosTokenIds }, request.logits ?? false);
    }
    case 'measure': {
      // The run that device reports are made of: half of the context as a prompt, then tokens until it is full.
      const { session } = opened();
      const ids = Array.from({ length: Math.floor(session.capacity / 2) }, (_, index) => index % session.vocabulary);
      return write(ids, { sampling: GREEDY, maxTokens: null, eosTokenIds: [] }, false);
    }
    case 'reset':
      opened().session.reset();
      return post({ kind: 'reset', usage: usage() });
  }
}

async function open(source: Source, engine: Engine): Promise<void> {
  post({ kind: 'progress', doing: 'Looking for a bundle', part: null });
  const manifestBytes = await source.manifest();
  const manifest = parseManifest(new TextDecoder().decode(manifestBytes));
  const { artifact, files } = manifest;
  if (engine === 'webgpu') await checkGraphics(artifact);
  const wanted = new Set([
    ...(manifest.tokenizer ? [manifest.tokenizer.file] : []),
    ...(BUDGET in files ? [BUDGET] : []),
    ...artifact.graphs.map(({ file }) => file),
    artifact.details.weight_file,
  ]);
  const total = [...wanted].reduce((sum, name) => sum + (files[name]?.bytes ?? 0), manifestBytes.length);
  let filesRead = 0;
  let bytesRead = manifestBytes.length;
  const read = async (name: string): Promise<Bytes> => {
    post({ kind: 'progress', doing: `Reading and checking ${name}`, part: Math.min(bytesRead / total, 1) });
    const bytes = await readChecked(source, name, files[name]);
    filesRead += 1;
    bytesRead += bytes.length;
    return bytes;
  };
  const text = async (name: string): Promise<string> => new TextDecoder().decode(await read(name));
  const tokenizer = manifest.tokenizer ? new Tokenizer(await text(manifest.tokenizer.file)) : null;
  const budget = BUDGET in files ? await text(BUDGET) : null;
  const started = performance.now();
  const graphs = new Map<string, Bytes>();
  for (const { file } of artifact.graphs) graphs.set(file, await read(file));
  const weights = await read(artifact.details.weight_file);
  post({ kind: 'progress', doing: 'Loading the model', part: null });
  await model?.runner.release();
  model = null;
  const ort = await runtimeFor(engine);
  const runner = await OnnxRunner.open(ort, engine, graphs, weights, artifact);
  model = { session: new Session(runner, artifact, listen), runner, tokenizer, eosTokenIds: manifest.tokenizer?.eos_token_ids ?? [] };
  post({
    kind: 'opened',
    bundle: {
      manifest,
      manifestSha256: await sha256(manifestBytes),
      budget,
      filesRead,
      bytesRead,
      loadSeconds: since(started),
      runtime: { version: ort.env.versions.web ?? 'unknown', engine, threads: threads() },
      usage: usage(),
    },
  });
}

/** See that the graphics unit has the numbers that a bundle computes with: quantized weights have scales in fp16. */
async function checkGraphics({ weights, state }: Artifact): Promise<void> {
  if (weights === 'fp32' && state === 'fp32') return;
  const { gpu } = navigator as { gpu?: { requestAdapter(): Promise<{ features: ReadonlySet<string> } | null> } };
  const adapter = await gpu?.requestAdapter();
  if (adapter?.features.has('shader-f16')) return;
  throw new BundleError(
    `This graphics unit knows no half-precision numbers, which ${weights} weights with an ${state} state need. Run the bundle on the processor.`,
  );
}

/** Start over with a prompt and write until something ends it. */
async function write(ids: readonly number[], options: Options, withLogits: boolean): Promise<void> {
  const { session, tokenizer } = opened();
  const stream = tokenizer && new TextStream(tokenizer);
  let logits: Float32Array | null = null;
  let decode: Run | null = null;
  let started = performance.now();
  stopping = false;
  session.reset();
  const observe = (given: Float32Array): void => {
    logits = given;
    if (session.position > ids.length) {
      decode = { tokens: session.position - ids.length, seconds: since(started) };
      return;
    }
    post({ kind: 'prefilled', ids, run: { tokens: ids.length, seconds: since(started) }, usage: usage() });
    started = performance.now();
  };
  const tokens = generate(session, ids, { ...options, observe });
  let why: StopReason = 'stopped';
  try {
    for (let next = await tokens.next(); ; next = await tokens.next()) {
      if (next.done) {
        why = next.value;
        break;
      }
      const text = stream?.push(next.value) ?? '';
      post({
        kind: 'token',
        token: next.value,
        text,
        decode,
        usage: usage(),
        ...(withLogits && logits ? { logits } : {}),
      });
    }
  } catch (error) {
    if (!(error instanceof Stopped)) throw error;
  }
  post({ kind: 'ended', why, decode, usage: usage() });
}

/** Let messages in, and stop if one asked for it. */
async function listen(): Promise<void> {
  await new Promise<void>((resolve) => {
    const channel = new MessageChannel(); // a timer would wait at least 4 ms
    channel.port1.onmessage = () => {
      channel.port1.close();
      resolve();
    };
    channel.port2.postMessage(null);
  });
  if (stopping) throw new Stopped();
}

function opened(): Model {
  if (!model) throw new BundleError('No bundle is open.');
  return model;
}

function usage(): Usage {
  const session = model?.session;
  return { position: session?.position ?? 0, capacity: session?.capacity ?? 0, heapBytes: heapBytes() };
}

function since(start: number): number {
  return (performance.now() - start) / 1000;
}

function failed(error: unknown): void {
  if (error instanceof NothingServed) post({ kind: 'nothing-served' });
  else post({ kind: 'failed', message: error instanceof Error ? error.message : String(error) });
}

function post(reply: Reply): void {
  self.postMessage(reply);
}
