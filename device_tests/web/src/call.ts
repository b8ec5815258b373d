/** Which graph is called, and what its inputs are filled with, by their roles: as in edgeqkv/run/session.py. */

import { BundleError, count } from './manifest';
import type { Artifact, Graph, Role, StateTensor, TensorSpec } from './manifest';

/** An input that is filled: its numbers in the order of memory, which the runtime turns into the input's own type. */
export interface Input {
  readonly spec: TensorSpec;
  readonly shape: readonly number[];
  readonly values: readonly number[];
}

/** What added to a score hides it; masks of integers say only which positions are filled. */
const LOWEST: Readonly<Record<string, number>> = { fp32: -(2 - 2 ** -23) * 2 ** 127, fp16: -65504 };

/** One call of a graph, with tokens `ids`, which stand at `position` and after it. */
export class Call {
  constructor(
    readonly graph: Graph,
    readonly ids: readonly number[],
    readonly position: number,
  ) {}

  /** Tokens that the graph takes; of a fixed one, those behind the last of `ids` only fill it up. */
  get tokens(): number {
    return this.graph.fixed ? this.graph.tokens : this.ids.length;
  }

  /** Positions that are filled after the call. */
  get end(): number {
    return this.position + this.ids.length;
  }

  /** Every input but the state. */
  get inputs(): Input[] {
    const filled = this.graph.inputs.filter(({ role }) => role !== 'state');
    return filled.map((spec) => ({ spec, shape: this.shape(spec), values: this.#values(spec) }));
  }

  /** The shape that an input or output has in this call. */
  shape(spec: TensorSpec): number[] {
    const sizes: Record<string, number> = { tokens: this.tokens, end: this.end, 'end + 1': this.end + 1 };
    return spec.shape.map((size) => {
      const found = typeof size === 'number' ? size : sizes[size];
      if (found === undefined) throw new BundleError(`“${spec.name}” is of an unknown size, ${size}.`);
      return found;
    });
  }

  #values(spec: TensorSpec): number[] {
    const shape = this.shape(spec);
    const made = (value: (index: number) => number) => Array.from({ length: count(shape) }, (_, index) => value(index));
    switch (spec.role) {
      case 'tokens':
        return made((index) => this.ids[index] ?? 0);
      case 'positions':
        return made((index) => this.position + index);
      case 'start':
        return made(() => this.position);
      case 'logit_index':
        return made(() => this.ids.length - 1);
      case 'length': // a named size says it all by itself
        return made(() => (typeof spec.shape.at(-1) === 'string' ? 0 : this.end));
      case 'mask': {
        const lowest = LOWEST[spec.dtype];
        if (lowest === undefined) return made(() => 1);
        const columns = shape.at(-1)!;
        return made((index) => (index % columns <= this.position + Math.floor(index / columns) ? 0 : lowest));
      }
      default:
        throw new BundleError(`The input “${spec.name}” is of the role ${spec.role}, which is no decoder's.`);
    }
  }
}

/**
 * The graph for `count` tokens at `position`: of those that take so many there, the smallest with the smallest window.
 * Undefined: there is none, and they go one by one.
 *
 * A fixed graph that says which token's logits it gives is filled up. What fills it up stands after the last token:
 * nothing attends to it there, and the tokens that come to stand there overwrite it.
 */
export function graphFor(artifact: Artifact, count: number, position: number): Graph | undefined {
  const takes = (graph: Graph) => !graph.fixed || graph.tokens === count || has(graph, 'logit_index');
  return withRoom(artifact, count, position).filter(takes)[0];
}

/** Tokens of a filled-up graph for each that is wanted: reading the weights once is most of what any call takes. */
const WORTH = 16;

/** The graph that takes these tokens, filled up, whatever logits it gives. Undefined: not worth its call. */
export function graphForAllButLogits(artifact: Artifact, count: number, position: number): Graph | undefined {
  return withRoom(artifact, count, position).filter((graph) => graph.tokens <= count * WORTH)[0];
}

/** The graphs with room for `count` tokens, the smallest first. */
function withRoom({ graphs, context }: Artifact, count: number, position: number): Graph[] {
  return graphs
    .filter(
      (graph) =>
        graph.tokens >= count && (!graph.fixed || position + graph.tokens <= (graph.window ?? context)),
    )
    .sort((a, b) => a.tokens - b.tokens || (a.window ?? 0) - (b.window ?? 0));
}

function has(graph: Graph, role: Role): boolean {
  return graph.inputs.some((input) => input.role === role);
}

/** An array of numbers of any type. */
interface Numbers<Self> {
  set(from: Self, at: number): void;
  subarray(start: number, end: number): Self;
}

/** Write a call's new rows of a state tensor, which came from the graph alone, to where they belong in `state`. */
export function writeRows<Array extends Numbers<Array>>(
  { axes }: Artifact,
  { shape }: StateTensor,
  rows: Array,
  state: Array,
  call: Call,
): void {
  const axis = axes.indexOf('context');
  const row = count(shape.slice(axis + 1));
  for (let block = 0; block < count(shape.slice(0, axis)); block++) {
    const from = block * call.tokens * row;
    state.set(rows.subarray(from, from + call.ids.length * row), (block * shape[axis]! + call.position) * row);
  }
}
