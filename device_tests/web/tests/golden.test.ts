// What edgeqkv itself computed for the sample apps (device_tests/golden.py) holds here too.

import { describe, expect, test } from 'vitest';
import vocabulary from '../../../edgeqkv/demo/tokenizer.json?raw';
import golden from '../../golden.json';
import { GREEDY, generate, sample } from '../src/generate';
import { Decoder } from '../src/decoder';
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

/** The model of golden.py, whose logits are whole numbers made of the last token and its position. */
class Fake extends Decoder {
  readonly calls: number[][] = [];

  constructor(chunk: number = golden.model.chunk) {
    super(golden.model.context, chunk, golden.model.vocabulary, async () => {});
  }

  protected override async step(ids: readonly number[], position: number): Promise<Float32Array> {
    this.calls.push([ids.length, position]);
    const [token, at] = [ids.at(-1)!, position + ids.length - 1];
    return Float32Array.from({ length: this.vocabulary }, (_, id) => (token * 7 + id * (13 + at) + at * 3) % 23);
  }
}

describe('generate', () => {
  test.each(golden.generation)('after $prompt: $stopped', async ({ prompt, max_tokens, eos_ids, tokens, stopped, calls }) => {
    const decoder = new Fake();
    const made = generate(decoder, prompt, { sampling: GREEDY, maxTokens: max_tokens, eosIds: eos_ids });
    const found: number[] = [];
    let next = await made.next();
    for (; !next.done; next = await made.next()) found.push(next.value);
    expect({ tokens: found, stopped: next.value, calls: decoder.calls }).toEqual({ tokens, stopped, calls });
  });
});

test.each(golden.plans)('$tokens tokens in chunks of $chunk', async ({ tokens, chunk, any }) => {
  const decoder = new Fake(chunk);
  await decoder.feed(Array<number>(tokens).fill(0));
  expect(decoder.calls.map(([size]) => size)).toEqual(any);
});
