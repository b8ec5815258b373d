import { expect, test } from 'vitest';
import golden from '../../golden.json';
import { parseManifest, stateBytes, stateCut } from '../src/manifest';
import { PickedSource, readChecked, type PickedFile } from '../src/source';

const artifact = {
  form: 'portable',
  context: 8,
  state_tensors: [0, 1].map((layer) => ({ name: `kv_${layer}`, role: 'kv', dtype: 'fp16', shape: [1, 2, 8, 4] })),
};
const manifest = {
  format: 2,
  model: {
    kind: 'decoder',
    variant: 'q-k=v+gqa2',
    parameters: 1,
    config: { layers: 2, heads: 4, head_dim: 4 },
    source: { file: 'm' },
  },
  tokenizer: null,
  targets: { onnx: { artifact, verification: null } },
  files: {},
};
const told = (change: object) => JSON.stringify({ ...manifest, ...change });

test('the manifest that edgeqkv writes is read', () => {
  const read = parseManifest(golden.bundle.manifest);
  expect(read.tokenizer?.eos_token_ids).toEqual([0, 3]);
  expect(read.artifact).toEqual(golden.artifacts.onnx);
});

test('a manifest is read, and its state counted', () => {
  const read = parseManifest(told({}));
  expect(read.model.variant).toBe('q-k=v+gqa2');
  expect(stateBytes(read.artifact)).toBe(2 * (2 * 8 * 4) * 2);
  expect(stateCut(read)).toBe(0.75); // half the heads, and one tensor instead of two
});

test.each([
  ['{', 'not JSON'],
  ['null', 'of format undefined'],
  [told({ format: 1 }), 'of format 1, and this app reads format 2. Export the model again.'],
  [told({ format: 3 }), 'of format 3, and this app reads format 2. Update this app'],
  [told({ model: { ...manifest.model, kind: 'encoder' } }), 'holds an encoder'],
  [told({ targets: { coreml: {} } }), 'holds coreml'],
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
