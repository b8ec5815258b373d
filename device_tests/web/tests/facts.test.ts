import { expect, test } from 'vitest';
import { predictionsOf } from '../src/facts';
import type { Opened } from '../src/protocol';

const opened = (devices: object[] | null) =>
  ({ budget: devices && JSON.stringify({ devices }) }) as unknown as Opened;

test('the verdicts of the budget are told as predictions', () => {
  const devices = [
    { candidate: 'onnx int4', title: 'One', verdict: 'fits', peak_bytes: 2e6 },
    { candidate: 'onnx int4', title: 'Two', verdict: 'does not fit', peak_bytes: 2e6 },
    { candidate: 'coreml', title: 'Three', verdict: 'fits', peak_bytes: 2e6 },
    { candidate: 'onnx int4', title: 'Four', verdict: 'a word of tomorrow', peak_bytes: 2e6 },
  ];
  expect(predictionsOf(opened(devices)).map(({ name, value, tone }) => [name, value, tone])).toEqual([
    ['One', 'should fit', 'good'],
    ['Two', 'should not fit', 'bad'],
    ['Four', 'a word of tomorrow', undefined],
  ]);
  expect(predictionsOf(opened(devices))[0]!.note).toContain('predicted');
});

test('without a budget nothing is predicted', () => {
  expect(predictionsOf(opened(null))).toEqual([]);
});
