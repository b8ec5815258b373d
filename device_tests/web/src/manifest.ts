/** `manifest.json`, as far as this app reads it; the whole of it is described in edgeqkv/bundle/manifest.py. */

export interface FileCard {
  readonly bytes: number;
  readonly sha256: string;
}

/** What an input is filled with, or what an output holds. Graphs are called by this, never by names. */
export type Role =
  | 'tokens'
  | 'positions'
  | 'start'
  | 'length'
  | 'logit_index'
  | 'mask'
  | 'pixels'
  | 'features'
  | 'image'
  | 'logits'
  | 'state';

/** An input or output of a graph. A dimension that varies from call to call is given by its name. */
export interface TensorSpec {
  readonly name: string;
  readonly dtype: string;
  /** The type as NumPy calls it, and ONNX Runtime. */
  readonly numpy_dtype: string;
  readonly shape: readonly (number | string)[];
  readonly role: Role;
}

/** One thing that can be called, that takes up to `tokens` tokens (exactly, if `fixed`). */
export interface Graph {
  readonly name: string;
  readonly file: string;
  readonly tokens: number;
  readonly fixed: boolean;
  /** Positions of the state that it reads; null: all. */
  readonly window: number | null;
  readonly inputs: readonly TensorSpec[];
  readonly outputs: readonly TensorSpec[];
}

/** One tensor of the KV state (the KV cache). */
export interface StateTensor {
  readonly name: string;
  /** `kv` for a merged tensor, else `k` or `v`. */
  readonly role: string;
  readonly dtype: StateType;
  readonly numpy_dtype: string;
  readonly shape: readonly number[];
  /** Who writes new rows: the graph where it lies, the caller who gets them alone, or the runtime. */
  readonly update: 'in_place' | 'rows' | 'runtime';
  readonly input: string | null;
  readonly output: string | null;
  /** Further outputs that hold the same. */
  readonly aliases: readonly string[];
}

export type StateType = 'fp32' | 'fp16' | 'int8';

/** One target's export of a language model. */
export interface Artifact {
  readonly target: string;
  readonly form: string;
  readonly weights: string;
  readonly state: StateType;
  /** Tokens that the state has room for. */
  readonly context: number;
  /** The most tokens a call takes. */
  readonly chunk: number;
  readonly vocab_size: number;
  /** What the dimensions of a state tensor are. */
  readonly axes: readonly string[];
  readonly graphs: readonly Graph[];
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
    readonly kind: string;
    readonly variant: string;
    readonly parameters: number;
    readonly config: { readonly heads: number; readonly layers: number; readonly head_dim: number };
    readonly source: { readonly file: string };
  };
  readonly tokenizer: { readonly file: string; readonly eos_token_ids: readonly number[] } | null;
  readonly artifact: Artifact;
  readonly verification: Verification | null;
  readonly files: Readonly<Record<string, FileCard>>;
}

export const MANIFEST = 'manifest.json';
/** 1 had no roles. */
const FORMAT = 2;
const TARGET = 'onnx';

/** What is wrong with a bundle, in words for the page. */
export class BundleError extends Error {}

/** Read a manifest and check that this app can run what it describes. */
export function parseManifest(text: string): Manifest {
  const told = parsed(text);
  if (told.format !== FORMAT) {
    const help = told.format === 1 ? 'Export the model again.' : 'Update this app, or export the model again.';
    throw new BundleError(`${MANIFEST} is of format ${told.format}, and this app reads format ${FORMAT}. ${help}`);
  }
  if (told.model?.kind !== 'decoder') {
    throw new BundleError(`This bundle holds an ${told.model?.kind}, which continues no text.`);
  }
  const target = told.targets?.[TARGET];
  if (!target) {
    const held = Object.keys(told.targets ?? {}).join(', ') || 'nothing';
    throw new BundleError(`A browser runs ONNX, and this bundle holds ${held}. Export with --target onnx.`);
  }
  return {
    model: told.model,
    tokenizer: told.tokenizer,
    artifact: target.artifact,
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
