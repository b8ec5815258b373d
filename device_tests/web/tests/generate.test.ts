import { describe, expect, test } from 'vitest';
import { GREEDY, generate, randomNumbers, sample, type Options, type StopReason } from '../src/generate';
import type { Decoder } from '../src/session';

/** Answers with given logits, one row a feed, and then the last one again and again. */
class Scripted implements Decoder {
  position = 0;
  readonly fed: number[][] = [];

  constructor(
    private readonly rows: readonly (readonly number[])[],
    readonly capacity = 100,
  ) {}

  async feed(tokens: readonly number[]): Promise<Float32Array> {
    this.fed.push([...tokens]);
    this.position += tokens.length;
    return Float32Array.from(this.rows[Math.min(this.fed.length, this.rows.length) - 1]!);
  }

  reset(): void {
    this.position = 0;
  }
}

async function run(decoder: Decoder, options: Partial<Options> = {}): Promise<{ tokens: number[]; why: StopReason }> {
  const tokens: number[] = [];
  const made = generate(decoder, [5, 6], { sampling: GREEDY, maxTokens: null, eosIds: [], ...options });
  for (;;) {
    const next = await made.next();
    if (next.done) return { tokens, why: next.value };
    tokens.push(next.value);
  }
}

describe('generate', () => {
  const rows = [
    [0, 1, 0, 0],
    [0, 0, 1, 0],
    [0, 0, 0, 1],
  ];

  test('feeds the prompt, then each token but the last', async () => {
    const decoder = new Scripted(rows);
    expect(await run(decoder, { maxTokens: 3 })).toEqual({ tokens: [1, 2, 3], why: 'max_tokens' });
    expect(decoder.fed).toEqual([[5, 6], [1], [2]]);
  });

  test('ends at a token that ends a text, and does not yield it', async () => {
    expect(await run(new Scripted(rows), { eosIds: [3] })).toEqual({ tokens: [1, 2], why: 'end_of_text' });
  });

  test('fills the context to the last position', async () => {
    const decoder = new Scripted(rows, 4);
    expect(await run(decoder)).toEqual({ tokens: [1, 2, 3], why: 'context_full' });
    expect(decoder.position).toBe(4);
  });

  test('refuses settings that make no sense', async () => {
    const decoder = new Scripted(rows);
    await expect(run(decoder, { maxTokens: 0 })).rejects.toThrow('ask for 1 or more');
    for (const wrong of [{ temperature: -1 }, { temperature: NaN }, { topK: -1 }, { topK: 1.5 }, { topP: 0 }]) {
      await expect(run(decoder, { sampling: { ...GREEDY, ...wrong } })).rejects.toThrow('is impossible');
    }
    expect(decoder.fed).toEqual([]);
  });
});

describe('sample', () => {
  const logits = Float32Array.of(1, 3, 2, 3);

  test('temperature 0 takes the first of the most likely tokens', () => {
    expect(sample(logits, GREEDY, () => 0.99)).toBe(1);
  });

  test('draws by probability', () => {
    const sampling = { ...GREEDY, temperature: 0.5 };
    const weights = [...logits].map((logit) => Math.exp(logit / 0.5));
    const all = weights.reduce((sum, weight) => sum + weight);
    const random = randomNumbers(1);
    const drawn = [0, 0, 0, 0];
    const draws = 20_000;
    for (let draw = 0; draw < draws; draw++) drawn[sample(logits, sampling, random)]! += 1;
    // Five standard deviations of a binomial count at most.
    drawn.forEach((times, token) => expect(Math.abs(times / draws - weights[token]! / all)).toBeLessThan(0.018));
  });

  test('top-k keeps the most likely, and of equals the first', () => {
    const sampling = { ...GREEDY, temperature: 1, topK: 1 };
    expect(sample(logits, sampling, () => 0.999)).toBe(1);
  });

  test('top-p keeps up to and including the token that reaches it', () => {
    const even = Float32Array.of(0, 0, 0, 0);
    const last = (topP: number) => sample(even, { ...GREEDY, temperature: 1, topP }, () => 0.999);
    expect([0.25, 0.26, 0.5, 0.76, 1].map(last)).toEqual([0, 1, 1, 3, 3]);
  });
});

test('random numbers repeat with their seed', () => {
  const draws = (seed: number) => Array.from({ length: 4 }, randomNumbers(seed));
  expect(draws(7)).toEqual(draws(7));
  expect(draws(7)).not.toEqual(draws(8));
});
