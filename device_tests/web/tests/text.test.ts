import { expect, test } from 'vitest';
import json from '../../../edgeqkv/demo/tokenizer.json?raw';
import { TextStream, Tokenizer } from '../src/text';

const tokenizer = new Tokenizer(json);
const text = 'Each value, in order: “déjà vu”, naïve, 日本, 🙂 and 3.14.\n\n   async for x in y:';

test('a text survives the way to tokens and back', () => {
  expect(tokenizer.decode(tokenizer.encode(text))).toBe(text);
});

test('pieces make the text, and no piece is a broken character', () => {
  const stream = new TextStream(tokenizer);
  const pieces = tokenizer.encode(text).map((token) => stream.push(token));
  expect(pieces.join('')).toBe(text);
  expect(pieces.join('')).not.toContain('\uFFFD');
  expect(pieces).toContain(''); // a token that is the first part of a character
});

test('special tokens are not text', () => {
  const stream = new TextStream(tokenizer);
  expect(stream.push(0)).toBe('');
  expect(tokenizer.decode([0])).toBe('');
});
