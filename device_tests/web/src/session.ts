/** A bundle's graph in ONNX Runtime, and its KV state. */

import * as ort from 'onnxruntime-web/wasm';
import { Decoder } from './decoder';
import { count, type Artifact, type StateTensor } from './manifest';
import type { Bytes } from './source';

export class OnnxSession extends Decoder {
  readonly #runtime: ort.InferenceSession;
  readonly #tensors: readonly StateTensor[];
  readonly #outputs: readonly string[];
  #state: Record<string, ort.Tensor>;

  private constructor(runtime: ort.InferenceSession, artifact: Artifact, between: () => Promise<void>) {
    super(artifact.context, artifact.chunk, artifact.vocab_size, between);
    this.#runtime = runtime;
    this.#tensors = artifact.state_tensors;
    this.#outputs = ['logits', ...this.#tensors.map((tensor) => tensor.output)];
    this.#state = Object.fromEntries(this.#tensors.map((tensor) => [tensor.input, zeros(tensor)]));
  }

  /** Load a graph and its weights. For `between` see `Decoder`. */
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

  async release(): Promise<void> {
    await this.#runtime.release();
  }

  protected override async step(ids: readonly number[], position: number): Promise<Float32Array> {
    const end = position + ids.length;
    const results = await this.#runtime.run(
      {
        input_ids: int64(ids, [1, ids.length]),
        position_ids: int64(range(position, end), [1, ids.length]),
        logit_index: int64([ids.length - 1], [1]),
        kv_len: int64([end], [1]),
        ...this.#state,
      },
      this.#outputs,
    );
    // The runtime's JavaScript interface copies what goes in and what comes out, and cannot bind one buffer to both.
    // So a call copies the state three times, the runtime's own copy included; nothing is copied here.
    this.#state = Object.fromEntries(
      this.#tensors.map((tensor) => [tensor.input, results[tensor.output] as ort.Tensor]),
    );
    return (results.logits as ort.Tensor).data as Float32Array;
  }
}

function zeros({ dtype, shape }: StateTensor): ort.Tensor {
  switch (dtype) {
    case 'fp32':
      return new ort.Tensor('float32', new Float32Array(count(shape)), shape);
    case 'fp16':
      return new ort.Tensor('float16', new Uint16Array(count(shape)), shape);
    case 'int8':
      return new ort.Tensor('int8', new Int8Array(count(shape)), shape);
  }
}

function int64(values: readonly number[], shape: readonly number[]): ort.Tensor {
  return new ort.Tensor('int64', BigInt64Array.from(values, BigInt), shape);
}

function range(start: number, end: number): number[] {
  return Array.from({ length: end - start }, (_, index) => start + index);
}
