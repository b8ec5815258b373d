/** What the page and the worker that runs the model say to each other. */

import type { StopReason, Sampling } from './generate';
import type { Manifest } from './manifest';
import type { PickedFile } from './source';

/** What computes: the processor, or the graphics unit. */
export type Engine = 'wasm' | 'webgpu';

export type Request =
  | {
      readonly kind: 'open';
      readonly from: { readonly base: string } | { readonly picked: readonly PickedFile[] };
      /** A worker computes in one of them: another takes a new worker. */
      readonly engine: Engine;
    }
  | {
      readonly kind: 'generate';
      readonly prompt: string;
      readonly sampling: Sampling;
      readonly maxTokens: number | null;
      /** Whether to report the logits that each token was drawn from too. For tests: they are large. */
      readonly logits?: boolean;
    }
  | { readonly kind: 'measure' }
  | { readonly kind: 'stop' }
  | { readonly kind: 'reset' };

export type Reply =
  /** `part`: of the bundle's bytes that were read; null while nothing says how far it is. */
  | { readonly kind: 'progress'; readonly doing: string; readonly part: number | null }
  | { readonly kind: 'opened'; readonly bundle: Opened }
  | { readonly kind: 'nothing-served' }
  /** The prompt is in the state. */
  | { readonly kind: 'prefilled'; readonly ids: readonly number[]; readonly run: Run; readonly usage: Usage }
  | {
      readonly kind: 'token';
      readonly token: number;
      /** The text that it completes; empty while a character lacks bytes. */
      readonly text: string;
      readonly decode: Run | null;
      readonly usage: Usage;
      readonly logits?: Float32Array;
    }
  | { readonly kind: 'ended'; readonly why: StopReason; readonly decode: Run | null; readonly usage: Usage }
  | { readonly kind: 'reset'; readonly usage: Usage }
  | { readonly kind: 'failed'; readonly message: string };

export interface Opened {
  readonly manifest: Manifest;
  readonly manifestSha256: string;
  /** The content of `report.json`, if the bundle has a budget. */
  readonly budget: string | null;
  readonly filesRead: number;
  readonly bytesRead: number;
  readonly loadSeconds: number;
  readonly runtime: { readonly version: string; readonly engine: Engine; readonly threads: number };
  readonly usage: Usage;
}

/** Tokens fed, and the time until the logits of the last one were there. */
export interface Run {
  readonly tokens: number;
  readonly seconds: number;
}

export interface Usage {
  readonly position: number;
  readonly capacity: number;
  /** The WebAssembly heap, which never shrinks: also its peak. */
  readonly heapBytes: number;
}
