/** ONNX Runtime, on the processor or on the graphics unit. Each is a build of its own, loaded when it is asked for. */

import type * as Ort from 'onnxruntime-web/wasm';
import gpuCode from 'onnxruntime-web/ort-wasm-simd-threaded.asyncify.mjs?url';
import gpuBinary from 'onnxruntime-web/ort-wasm-simd-threaded.asyncify.wasm?url';
import wasmCode from 'onnxruntime-web/ort-wasm-simd-threaded.mjs?url';
import wasmBinary from 'onnxruntime-web/ort-wasm-simd-threaded.wasm?url';
import type { Engine } from './protocol';

export type Runtime = typeof Ort;

const MOST_THREADS = 4;

/** The runtime for an engine. What the graphics unit does not have, WebGPU's build computes on the processor. */
export async function runtimeFor(engine: Engine): Promise<Runtime> {
  const runtime: Runtime =
    engine === 'webgpu' ? await import('onnxruntime-web/webgpu') : await import('onnxruntime-web/wasm');
  const { env } = runtime;
  env.wasm.wasmPaths = engine === 'webgpu' ? { mjs: gpuCode, wasm: gpuBinary } : { mjs: wasmCode, wasm: wasmBinary };
  env.wasm.numThreads = threads();
  env.logLevel = 'error';
  return runtime;
}

/** The runtime's threads share memory, which a page gets only if its server isolates it from other origins. */
export function threads(): number {
  return self.crossOriginIsolated ? Math.min(MOST_THREADS, navigator.hardwareConcurrency) : 1;
}
