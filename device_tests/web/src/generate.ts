/** Generating tokens, greedy or sampled: what edgeqkv/run/generate.py does. */

import { InputError, type Session } from './session';

export type StopReason = 'end_of_text' | 'max_tokens' | 'context_full' | 'stopped';

export interface Sampling {
  /** 0 takes the most likely token; 1 draws from the model's own distribution. */
  readonly temperature: number;
  /** Draw among this many of the most likely tokens; 0: among all. */
  readonly topK: number;
  /** Draw among the most likely tokens that together have this probability; 1: among all. */
  readonly topP: number;
  /** The same seed gives the same text here, though not the one that Python's random numbers give. */
  readonly seed: number;
}

export const GREEDY: Sampling = { temperature: 0, topK: 0, topP: 1, seed: 0 };

export interface Options {
  readonly sampling: Sampling;
  /** null: until the context is full. */
  readonly maxTokens: number | null;
  readonly eosTokenIds: readonly number[];
  /** Told of the logits that each token is drawn from. */
  readonly observe?: (logits: Float32Array) => void;
}

/** Token ids after a prompt, one by one; the value in the end is why there are no more. */
export async function* generate(
  session: Session,
  prompt: readonly number[],
  { sampling, maxTokens, eosTokenIds, observe }: Options,
): AsyncGenerator<number, StopReason> {
  checkSampling(sampling);
  if (maxTokens !== null && maxTokens < 1) {
    throw new InputError(`${maxTokens} tokens cannot be generated; ask for 1 or more.`);
  }
  const random = randomNumbers(sampling.seed);
  let logits = await session.feed(prompt);
  for (let made = 1; ; made++) {
    observe?.(logits);
    const token = sample(logits, sampling, random);
    if (eosTokenIds.includes(token)) return 'end_of_text';
    yield token;
    if (made === maxTokens) return 'max_tokens';
    if (session.position >= session.capacity) return 'context_full';
    logits = await session.feed([token]);
  }
}

/** Draw a token. `random` gives numbers from 0 to below 1. */
export function sample(logits: Float32Array, sampling: Sampling, random: () => number): number {
  if (sampling.temperature === 0) return mostLikely(logits);
  const order = Uint32Array.from(logits.keys()).sort((a, b) => logits[b]! - logits[a]! || a - b);
  const kept = sampling.topK ? order.subarray(0, sampling.topK) : order;
  const top = logits[kept[0]!]!;
  const weights = Float64Array.from(kept, (token) => Math.exp((logits[token]! - top) / sampling.temperature));
  const all = weights.reduce((sum, weight) => sum + weight, 0);
  // The most likely tokens up to and including the one that reaches topP.
  let mass = 0;
  let size = 0;
  while (size < weights.length && mass < sampling.topP * all) mass += weights[size++]!;
  let left = random() * mass;
  for (let place = 0; place < size - 1; place++) {
    left -= weights[place]!;
    if (left < 0) return kept[place]!;
  }
  return kept[size - 1]!;
}

function mostLikely(logits: Float32Array): number {
  let best = 0;
  for (let token = 1; token < logits.length; token++) if (logits[token]! > logits[best]!) best = token;
  return best;
}

function checkSampling({ temperature, topK, topP }: Sampling): void {
  if (!(temperature >= 0)) throw new InputError(`Temperature ${temperature} is impossible; it is 0 (greedy) or more.`);
  if (!(Number.isInteger(topK) && topK >= 0)) {
    throw new InputError(`Top-k ${topK} is impossible; it is 0 (off) or a whole number.`);
  }
  if (!(topP > 0 && topP <= 1)) throw new InputError(`Top-p ${topP} is impossible; it is above 0 and at most 1 (off).`);
}

/** A small generator of random numbers that can be seeded, which `Math.random` cannot: a Weyl sequence, mixed. */
export function randomNumbers(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x9e3779b9) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 16), 0x21f0aaad);
    mixed = Math.imul(mixed ^ (mixed >>> 15), 0x735a2d97);
    return ((mixed ^ (mixed >>> 15)) >>> 0) / 2 ** 32;
  };
}
