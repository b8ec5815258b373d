import { expect, test } from 'vitest';
import { parseManifest, stateBytes, stateCut } from '../src/manifest';
import { PickedSource, readChecked, type PickedFile } from '../src/source';

const artifact = {
  form: 'portable',
  weights: 'int4',
  state: 'fp16',
  context: 8,
  chunk: 4,
  vocab_size: 16,
  graphs: [{ file: 'model.onnx' }],
  state_tensors: [0, 1].map((layer) => ({
    name: `kv_${layer}`,
    role: 'kv',
    dtype: 'fp16',
    shape: [1, 2, 8, 4],
    input: `past_kv_${layer}`,
    output: `present_kv_${layer}`,
  })),
  details: { weight_file: 'model.onnx.data' },
};
const manifest = {
  format: 1,
  model: { variant: 'q-k=v+gqa2', parameters: 1, config: { layers: 2, heads: 4, head_dim: 4 }, source: { file: 'm' } },
  tokenizer: null,
  targets: { onnx: { artifact, verification: null } },
  files: {},
};
const told = (change: object) => JSON.stringify({ ...manifest, ...change });

test('a manifest is read, and its state counted', () => {
  const read = parseManifest(told({}));
  expect(read.model.variant).toBe('q-k=v+gqa2');
  expect(stateBytes(read.artifact)).toBe(2 * (2 * 8 * 4) * 2);
  expect(stateCut(read)).toBe(0.75); // half the heads, and one tensor instead of two
});

test.each([
  ['{', 'not JSON'],
  ['null', 'of format undefined'],
  [told({ format: 2 }), 'of format 2'],
  [told({ targets: { coreml: {} } }), 'holds coreml'],
  [told({ targets: { onnx: { artifact: { ...artifact, form: 'static' } } } }), '“static”'],
])('a manifest that cannot be used says why: %#', (text, words) => {
  expect(() => parseManifest(text)).toThrow(words);
});

const picked = (path: string, content: string): PickedFile => ({ path, file: new File([content], 'name') });
const card = { bytes: 3, sha256: 'ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad' };

// The card is of the standard's own example (FIPS 180-2, B.1).
test('the bundle is the folder of the topmost manifest', async () => {
  const source = new PickedSource([
    picked('all/old/bundle/manifest.json', 'inner'),
    picked('all/bundle/manifest.json', 'outer'),
    picked('all/bundle/model.onnx', 'abc'),
  ]);
  expect(new TextDecoder().decode(await source.manifest())).toBe('outer');
  expect(await readChecked(source, 'model.onnx', card)).toEqual(new TextEncoder().encode('abc'));
});

test('a folder without a manifest is no bundle', () => {
  expect(() => new PickedSource([picked('x/other-manifest.json', '')])).toThrow('no manifest.json');
});

test.each([
  ['abd', 'not the file that was exported'],
  ['abcd', 'not the file that was exported'],
])('a changed file is refused: %s', async (content, words) => {
  const source = new PickedSource([picked('manifest.json', ''), picked('model.onnx', content)]);
  await expect(readChecked(source, 'model.onnx', card)).rejects.toThrow(words);
});

test('a missing file is named', async () => {
  const source = new PickedSource([picked('manifest.json', '')]);
  await expect(readChecked(source, 'model.onnx', card)).rejects.toThrow('“model.onnx” is missing');
  await expect(readChecked(source, 'model.onnx', undefined)).rejects.toThrow('does not list “model.onnx”');
});
