import { describe, expect, test } from 'vitest';
import golden from '../../golden.json';
import { GREEDY, generate, randomNumbers, sample } from '../src/generate';
import type { Artifact } from '../src/manifest';
import { Session, Stopped, type Runner } from '../src/session';

const artifact = { ...golden.artifacts.onnx, context: 8, chunk: 2, vocab_size: 16 } as unknown as Artifact;
const never: Runner = {
  run() {
    throw new Error('was asked for logits');
  },
};

test.each([
  [{ maxTokens: 0 }, 'ask for 1 or more'],
  [{ sampling: { ...GREEDY, temperature: -1 } }, 'Temperature -1 is impossible'],
  [{ sampling: { ...GREEDY, temperature: NaN } }, 'Temperature NaN is impossible'],
  [{ sampling: { ...GREEDY, topK: 1.5 } }, 'Top-k 1.5 is impossible'],
  [{ sampling: { ...GREEDY, topP: 0 } }, 'Top-p 0 is impossible'],
])('settings that make no sense are refused before anything is fed: %#', async (wrong, words) => {
  const session = new Session(never, artifact, async () => {});
  const made = generate(session, [1], { sampling: GREEDY, maxTokens: null, eosTokenIds: [], ...wrong });
  await expect(made.next()).rejects.toThrow(words);
});

test.each([
  [[], 'no tokens'],
  [[1, 16], 'Token 16 is not in this'],
  [[-1], 'Token -1 is not in this'],
  [[1.5], 'Token 1.5 is not in this'],
  [Array<number>(9).fill(1), '9 more tokens do not fit: 0 of 8'],
])('tokens that cannot be fed are refused: %#', async (tokens, words) => {
  await expect(new Session(never, artifact, async () => {}).feed(tokens)).rejects.toThrow(words);
});

test('a feed can be stopped between chunks', async () => {
  let calls = 0;
  const runner: Runner = {
    async run() {
      calls += 1;
      return new Float32Array(16);
    },
  };
  const session = new Session(runner, artifact, async () => {
    if (calls === 2) throw new Stopped();
  });
  await expect(session.feed([1, 1, 1, 1, 1, 1])).rejects.toBeInstanceOf(Stopped);
  expect(session.position).toBe(4);
});

describe('sample', () => {
  const logits = Float32Array.of(1, 3, 2, 3);

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
});

test('random numbers repeat with their seed', () => {
  const draws = (seed: number) => Array.from({ length: 4 }, randomNumbers(seed));
  expect(draws(7)).toEqual(draws(7));
  expect(draws(7)).not.toEqual(draws(8));
});
