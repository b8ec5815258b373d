import { expect, test } from 'vitest';
import json from '../../../edgeqkv/demo/tokenizer.json?raw';
import { TextStream, Tokenizer } from '../src/text';

const tokenizer = new Tokenizer(json);

test('special tokens are not text', () => {
  const stream = new TextStream(tokenizer);
  expect(stream.push(0)).toBe('');
  expect(tokenizer.decode([0])).toBe('');
});
