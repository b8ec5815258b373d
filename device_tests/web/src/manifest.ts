/** `manifest.json`, as far as this app reads it; the whole of it is described in edgeqkv/bundle.py and artifact.py. */

export interface FileCard {
  readonly bytes: number;
  readonly sha256: string;
}

export interface StateTensor {
  readonly name: string;
  /** `kv` for a merged tensor, else `k` or `v`. */
  readonly role: string;
  readonly dtype: StateType;
  readonly shape: readonly number[];
  readonly input: string;
  readonly output: string;
}

export type StateType = 'fp32' | 'fp16' | 'int8';

export interface Artifact {
  readonly form: string;
  readonly weights: string;
  readonly state: StateType;
  /** Tokens that the state has room for. */
  readonly context: number;
  /** The most tokens a call takes. */
  readonly chunk: number;
  readonly vocab_size: number;
  readonly graphs: readonly { readonly file: string }[];
  readonly state_tensors: readonly StateTensor[];
  readonly details: { readonly weight_file: string };
}

export interface Verification {
  readonly passed: boolean;
  readonly max_abs_error: number;
  readonly tolerance: number;
  readonly positions: number;
}

export interface Manifest {
  readonly model: {
    readonly variant: string;
    readonly parameters: number;
    readonly config: { readonly heads: number; readonly layers: number; readonly head_dim: number };
    readonly source: { readonly file: string };
  };
  readonly tokenizer: { readonly file: string; readonly eos_ids: readonly number[] } | null;
  readonly artifact: Artifact;
  readonly verification: Verification | null;
  readonly files: Readonly<Record<string, FileCard>>;
}

export const MANIFEST = 'manifest.json';
const FORMAT = 1;
const TARGET = 'onnx';

/** What is wrong with a bundle, in words for the page. */
export class BundleError extends Error {}

/** Read a manifest and check that this app can run what it describes. */
export function parseManifest(text: string): Manifest {
  const told = parsed(text);
  if (told.format !== FORMAT) {
    throw new BundleError(`${MANIFEST} is of format ${told.format}, and this app reads format ${FORMAT}.`);
  }
  const target = told.targets?.[TARGET];
  if (!target) {
    const held = Object.keys(told.targets ?? {}).join(', ') || 'nothing';
    throw new BundleError(`A browser runs ONNX, and this bundle holds ${held}. Export with --target onnx.`);
  }
  const artifact: Artifact = target.artifact;
  if (artifact.form !== 'portable') {
    throw new BundleError(`This app runs the form “portable”, and this bundle's is “${artifact.form}”.`);
  }
  return {
    model: told.model,
    tokenizer: told.tokenizer,
    artifact,
    verification: target.verification,
    files: told.files,
  };
}

/** Bytes of the KV state. */
export function stateBytes(artifact: Artifact): number {
  const width = { fp32: 4, fp16: 2, int8: 1 };
  return artifact.state_tensors.reduce((sum, tensor) => sum + count(tensor.shape) * width[tensor.dtype], 0);
}

/** The part of ordinary attention's KV state (separate keys and values, a pair for each query head) that is saved. */
export function stateCut({ model, artifact }: Manifest): number {
  const { layers, heads, head_dim } = model.config;
  const stored = artifact.state_tensors.reduce((sum, tensor) => sum + count(tensor.shape), 0);
  return 1 - stored / (2 * layers * heads * head_dim * artifact.context);
}

export function count(shape: readonly number[]): number {
  return shape.reduce((product, size) => product * size, 1);
}

// JSON has no type until it is looked at.
function parsed(text: string): any {
  try {
    return JSON.parse(text) ?? {};
  } catch {
    throw new BundleError(`${MANIFEST} is damaged: it is not JSON.`);
  }
}
