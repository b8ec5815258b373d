/** A bundle's graphs in ONNX Runtime, and their KV state. */

import type { InferenceSession, Tensor } from 'onnxruntime-web/wasm';
import { writeRows, type Call, type Input } from './call';
import { BundleError, count, type Artifact, type StateTensor } from './manifest';
import type { Engine } from './protocol';
import type { Runtime } from './runtime';
import type { Runner } from './session';
import type { Bytes } from './source';

export class OnnxRunner implements Runner {
  readonly #artifact: Artifact;
  readonly #runtime: Runtime;
  /** By the graphs' names. */
  readonly #sessions: ReadonlyMap<string, InferenceSession>;
  /** By the state tensors' names. */
  readonly #state = new Map<string, Tensor>();

  private constructor(runtime: Runtime, sessions: ReadonlyMap<string, InferenceSession>, artifact: Artifact) {
    this.#runtime = runtime;
    this.#sessions = sessions;
    this.#artifact = artifact;
    for (const tensor of artifact.state_tensors) {
      if (tensor.update !== 'runtime') this.#state.set(tensor.name, zeros(runtime, tensor));
    }
  }

  /** Load the graphs, by the names of their files, and their weights. */
  static async open(
    runtime: Runtime,
    engine: Engine,
    files: ReadonlyMap<string, Bytes>,
    weights: Bytes,
    artifact: Artifact,
  ): Promise<OnnxRunner> {
    const quantized = artifact.weights === 'int4' || artifact.weights === 'int8';
    const held = artifact.state_tensors.filter(({ update }) => update === 'in_place');
    // On the graphics unit the state stays there between calls, and is never copied to this side.
    const stays = Object.fromEntries(held.map(({ output }) => [output!, 'gpu-buffer' as const]));
    const sessions = new Map<string, InferenceSession>();
    for (const graph of artifact.graphs) {
      const code = files.get(graph.file);
      if (!code) throw new BundleError(`“${graph.file}” was not read.`);
      const session = await runtime.InferenceSession.create(code, {
        executionProviders: [engine],
        ...(engine === 'webgpu' && { preferredOutputLocation: stays }),
        externalData: [{ path: artifact.details.weight_file, data: weights }],
        enableCpuMemArena: false,
        logSeverityLevel: 3, // errors: what the runtime says of its own optimizations helps nobody here
        // As edgeqkv's own runner: packing would copy every float weight, and the fast quantized kernels need it.
        extra: { session: { disable_prepacking: quantized ? '0' : '1' } },
      });
      sessions.set(graph.name, session);
    }
    return new OnnxRunner(runtime, sessions, artifact);
  }

  async release(): Promise<void> {
    for (const session of this.#sessions.values()) await session.release();
  }

  async run(call: Call): Promise<Float32Array> {
    const { inputs, outputs } = call.graph;
    const logits = outputs.find(({ role }) => role === 'logits');
    if (!logits) throw new BundleError(`The graph “${call.graph.name}” gives no logits. Export the model again.`);
    const held = this.#artifact.state_tensors.filter(({ update }) => update !== 'runtime');
    const given = Object.fromEntries(call.inputs.map((input) => [input.spec.name, filled(this.#runtime, input)]));
    for (const { name, role } of inputs) {
      const tensor = held.find(({ input }) => input === name);
      if (role === 'state' && tensor) given[name] = this.#state.get(tensor.name)!;
    }
    const results = await this.#sessions.get(call.graph.name)!.run(given, [
      logits.name,
      ...held.map(({ output }) => output!), // and not the aliases, which hold the same
    ]);
    // The runtime's JavaScript interface copies what goes in and what comes out, and cannot bind one buffer to both.
    // So a call copies the state three times, the runtime's own copy included; nothing is copied here.
    for (const tensor of held) {
      const result = results[tensor.output!] as Tensor;
      if (tensor.update === 'in_place') {
        const before = this.#state.get(tensor.name);
        if (before?.location === 'gpu-buffer' && before !== result) before.dispose();
        this.#state.set(tensor.name, result);
      }
      else writeRows(this.#artifact, tensor, numbers(result), numbers(this.#state.get(tensor.name)!), call);
    }
    return (results[logits.name] as Tensor).data as Float32Array;
  }
}

const ARRAYS = { float32: Float32Array, float16: Uint16Array, int8: Int8Array };

function zeros(ort: Runtime, { name, numpy_dtype, shape }: StateTensor): Tensor {
  if (!(numpy_dtype in ARRAYS)) throw new BundleError(`“${name}” is of type ${numpy_dtype}, unknown to this app.`);
  const type = numpy_dtype as keyof typeof ARRAYS; // which are the runtime's names too
  return new ort.Tensor(type, new ARRAYS[type](count(shape)), shape);
}

function filled(ort: Runtime, { spec, shape, values }: Input): Tensor {
  switch (spec.numpy_dtype) {
    case 'int64':
      return new ort.Tensor('int64', BigInt64Array.from(values, BigInt), shape);
    case 'int32':
      return new ort.Tensor('int32', Int32Array.from(values), shape);
    case 'float32':
      return new ort.Tensor('float32', Float32Array.from(values), shape);
    default:
      throw new BundleError(`The input “${spec.name}” is of type ${spec.numpy_dtype}, unknown to this app.`);
  }
}

/** A tensor's own numbers, not a copy. */
function numbers(tensor: Tensor): Float32Array {
  return tensor.data as Float32Array;
}
