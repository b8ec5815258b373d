/** Feeding tokens to a bundle's graph with ONNX Runtime: checks, chunks, positions and the KV state. */

import * as ort from 'onnxruntime-web/wasm';
import type { Artifact, StateTensor } from './manifest';
import type { Bytes } from './source';

/** A decoder with its state. */
export interface Decoder {
  /** Tokens fed since the start or the last `reset`. */
  readonly position: number;
  /** Tokens that the state has room for. */
  readonly capacity: number;
  /** Append tokens to the context; the logits after the last one. */
  feed(tokens: readonly number[]): Promise<Float32Array>;
  /** Forget everything that was fed. */
  reset(): void;
}

export class ContextFull extends Error {}
export class InputError extends Error {}
/** The user stopped a `feed` between two chunks. What was fed until then is in the state. */
export class Stopped extends Error {}

export class OnnxSession implements Decoder {
  readonly capacity: number;
  readonly vocabulary: number;
  readonly #chunk: number;
  #position = 0;
  #state: Record<string, ort.Tensor>;
  readonly #outputs: readonly string[];

  private constructor(
    private readonly runtime: ort.InferenceSession,
    private readonly artifact: Artifact,
    private readonly between: () => Promise<void>,
  ) {
    this.capacity = artifact.context;
    this.vocabulary = artifact.vocab_size;
    this.#chunk = artifact.chunk;
    this.#state = Object.fromEntries(artifact.state_tensors.map((tensor) => [tensor.input, zeros(tensor)]));
    this.#outputs = ['logits', ...artifact.state_tensors.map((tensor) => tensor.output)];
  }

  /**
   * Load a graph and its weights. `between` is awaited before every call of the graph: time for messages, and the
   * place to throw `Stopped`.
   */
  static async open(
    graph: Bytes,
    weights: Bytes,
    artifact: Artifact,
    between: () => Promise<void>,
  ): Promise<OnnxSession> {
    const quantized = artifact.weights === 'int4' || artifact.weights === 'int8';
    const runtime = await ort.InferenceSession.create(graph, {
      executionProviders: ['wasm'],
      externalData: [{ path: artifact.details.weight_file, data: weights }],
      enableCpuMemArena: false,
      // As edgeqkv's own session: packing would copy every float weight, and the fast quantized kernels need it.
      extra: { session: { disable_prepacking: quantized ? '0' : '1' } },
    });
    return new OnnxSession(runtime, artifact, between);
  }

  get position(): number {
    return this.#position;
  }

  async feed(tokens: readonly number[]): Promise<Float32Array> {
    this.#check(tokens);
    let logits: Float32Array = new Float32Array();
    for (let start = 0; start < tokens.length; start += this.#chunk) {
      const piece = tokens.slice(start, start + this.#chunk);
      await this.between();
      logits = await this.#step(piece);
      this.#position += piece.length;
    }
    return logits;
  }

  /** Rows of the state are overwritten before they are read again, so there is nothing to clear. */
  reset(): void {
    this.#position = 0;
  }

  async release(): Promise<void> {
    await this.runtime.release();
  }

  async #step(ids: readonly number[]): Promise<Float32Array> {
    const end = this.#position + ids.length;
    const results = await this.runtime.run(
      {
        input_ids: int64(ids, [1, ids.length]),
        position_ids: int64(range(this.#position, end), [1, ids.length]),
        logit_index: int64([ids.length - 1], [1]),
        kv_len: int64([end], [1]),
        ...this.#state,
      },
      this.#outputs,
    );
    // The runtime's JavaScript interface copies what goes in and what comes out, and cannot bind one buffer to both.
    // So a call copies the state three times, the runtime's own copy included; nothing is copied here.
    this.#state = Object.fromEntries(
      this.artifact.state_tensors.map((tensor) => [tensor.input, results[tensor.output] as ort.Tensor]),
    );
    return (results.logits as ort.Tensor).data as Float32Array;
  }

  #check(tokens: readonly number[]): void {
    if (tokens.length === 0) throw new InputError('There are no tokens to feed.');
    const wrong = tokens.find((token) => !(Number.isInteger(token) && token >= 0 && token < this.vocabulary));
    if (wrong !== undefined) {
      throw new InputError(`Token ${wrong} is not in this model's vocabulary, 0 to ${this.vocabulary - 1}.`);
    }
    if (this.#position + tokens.length > this.capacity) {
      throw new ContextFull(
        `${tokens.length} more tokens do not fit: ${this.#position} of ${this.capacity} positions are taken.`,
      );
    }
  }
}

function zeros(tensor: StateTensor): ort.Tensor {
  const size = tensor.shape.reduce((product, length) => product * length, 1);
  switch (tensor.dtype) {
    case 'fp32':
      return new ort.Tensor('float32', new Float32Array(size), tensor.shape);
    case 'fp16':
      return new ort.Tensor('float16', new Uint16Array(size), tensor.shape);
    case 'int8':
      return new ort.Tensor('int8', new Int8Array(size), tensor.shape);
  }
}

function int64(values: readonly number[], shape: readonly number[]): ort.Tensor {
  return new ort.Tensor('int64', BigInt64Array.from(values, BigInt), shape);
}

function range(start: number, end: number): number[] {
  return Array.from({ length: end - start }, (_, index) => start + index);
}
