// What edgeqkv itself computed for the sample apps (device_tests/golden.py) holds here too.

import { describe, expect, test } from 'vitest';
import vocabulary from '../../../edgeqkv/demo/tokenizer.json?raw';
import golden from '../../golden.json';
import { GREEDY, generate, sample } from '../src/generate';
import { Call, writeRows } from '../src/call';
import type { Artifact } from '../src/manifest';
import { Session, type Runner } from '../src/session';
import { TextStream, Tokenizer } from '../src/text';

test.each(golden.tokenizer)('tokens of $text', ({ text, ids, decoded, pieces }) => {
  const tokenizer = new Tokenizer(vocabulary);
  const stream = new TextStream(tokenizer);
  expect(tokenizer.encode(text)).toEqual(ids);
  expect(tokenizer.decode(ids)).toBe(decoded);
  expect(ids.map((token) => stream.push(token)).filter(Boolean)).toEqual(pieces);
});

test.each(golden.sampling)(
  'temperature $temperature, top-k $top_k, top-p $top_p, random number $uniform: $token',
  ({ logits, temperature, top_k, top_p, uniform, token }) => {
    const sampling = { temperature, topK: top_k, topP: top_p, seed: 0 };
    expect(sample(Float32Array.from(logits), sampling, () => uniform)).toBe(token);
  },
);

const fakeLogits = (token: number, position: number): number[] =>
  Array.from(
    { length: golden.model.vocabulary },
    (_, id) => (token * 7 + id * (13 + position) + position * 3) % 23,
  );

/** The model of golden.py, whose logits are whole numbers made of the last token and its position. */
class FakeRunner implements Runner {
  readonly calls: Call[] = [];
  readonly closed = new Set<string>();

  async run(call: Call): Promise<Float32Array> {
    this.calls.push(call);
    const every = call.graph.outputs.find(({ role }) => role === 'logits')!.shape.includes('tokens');
    const rows = call.ids.map((id, index) => fakeLogits(id, call.position + index));
    return Float32Array.from((every ? rows : rows.slice(-1)).flat());
  }

  async close({ name }: { readonly name: string }): Promise<void> {
    this.closed.add(name);
  }
}

const artifacts = golden.artifacts as unknown as Record<string, Artifact>;

function opened(name: string): { readonly session: Session; readonly runner: FakeRunner } {
  const runner = new FakeRunner();
  return { session: new Session(runner, artifacts[name]!, async () => {}), runner };
}

describe('generate', () => {
  test.each(golden.generation)(
    'after $prompt: $stopped',
    async ({ prompt, max_tokens, eos_token_ids, tokens, stopped, calls }) => {
      const { session, runner } = opened('onnx');
      const options = { sampling: GREEDY, maxTokens: max_tokens, eosTokenIds: eos_token_ids };
      const made = generate(session, prompt, options);
      const found: number[] = [];
      let next = await made.next();
      for (; !next.done; next = await made.next()) found.push(next.value);
      const places = runner.calls.map(({ ids, position }) => [ids.length, position]);
      expect({ tokens: found, stopped: next.value, calls: places }).toEqual({ tokens, stopped, calls });
    },
  );
});

interface Feeds {
  readonly artifact: string;
  readonly feeds: readonly number[][];
  readonly calls: readonly {
    readonly graph: string;
    readonly inputs: Readonly<Record<string, { readonly shape: number[]; readonly values: number[] }>>;
  }[];
}

const feeds = golden.feeds as unknown as readonly Feeds[];

test.each(feeds)('$artifact is called as Python calls it', async ({ artifact, feeds, calls }) => {
  const { session, runner } = opened(artifact);
  for (const ids of feeds) {
    const logits = await session.feed(ids);
    expect([...logits]).toEqual(fakeLogits(ids.at(-1)!, session.position - 1));
  }
  const ofState = new Set(artifacts[artifact]!.state_tensors.map(({ input }) => input));
  const wanted = calls.map(({ graph, inputs }) => ({
    graph,
    inputs: Object.fromEntries(Object.entries(inputs).filter(([name]) => !ofState.has(name))),
  }));
  const made = runner.calls.map((call) => ({
    graph: call.graph.name,
    inputs: Object.fromEntries(call.inputs.map(({ spec, shape, values }) => [spec.name, { shape, values }])),
  }));
  expect(made).toEqual(wanted);
});

test('new rows are written where Python writes them', async () => {
  const artifact = artifacts['onnx rows']!;
  const { feeds: fed, calls } = feeds.find((each) => each.artifact === 'onnx rows')!;
  const { session, runner } = opened('onnx rows');
  for (const ids of fed) await session.feed(ids);
  const tensor = artifact.state_tensors[0]!;
  const state = new Float32Array(tensor.shape.reduce((a, b) => a * b));
  runner.calls.forEach((call, index) => {
    expect([...state]).toEqual(calls[index]!.inputs[tensor.input!]!.values);
    const size = call.shape(call.graph.outputs.at(-1)!).reduce((a, b) => a * b);
    const rows = Float32Array.from({ length: size }, (_, at) => call.position * 1000 + at);
    writeRows(artifact, tensor, rows, state, call);
  });
});

test('graphs of full windows are closed', async () => {
  const { session, runner } = opened('onnx static');
  await session.feed(Array<number>(11).fill(0));
  await session.feed([0]);
  expect(runner.closed).toEqual(new Set());
  await session.feed([0]);
  expect(runner.closed).toEqual(new Set(['prefill_12', 'decode_12']));
});

test('what cannot be called is said', async () => {
  const coreml = artifacts.coreml!;
  const without = { ...coreml, graphs: coreml.graphs.filter(({ tokens }) => tokens > 1) };
  const alone = new Session(new FakeRunner(), without, async () => {});
  await expect(alone.feed([1])).rejects.toThrow('No graph of this export takes a token at position 0');
  const graph = artifacts['coreml count']!.graphs[0]!;
  const changed = (change: object) => ({ ...graph, inputs: graph.inputs.map((input) => ({ ...input, ...change })) });
  expect(() => new Call(changed({ role: 'pixels' }), [1], 0).inputs).toThrow('of the role pixels');
  expect(() => new Call(changed({ shape: ['breadth'] }), [1], 0).inputs).toThrow('an unknown size, breadth');
});
