/** Feeding tokens to a decoder, whatever runs it: checks, chunks and graphs, as in edgeqkv/run/session.py. */

import { Call, graphFor, graphForAllButLogits } from './call';
import { BundleError, type Artifact, type Graph } from './manifest';

/** What calls an export's graphs. It keeps the KV state, whoever of graph, runtime and itself writes to it. */
export interface Runner {
  /** The logits of a call: of the token that the graph was asked for, or of every token, one after another. */
  run(call: Call): Promise<Float32Array>;
  /** Give back what a graph takes; it is opened anew if it is called again. */
  close?(graph: Graph): Promise<void>;
}

export class ContextFull extends Error {}
export class InputError extends Error {}
/** The user stopped a `feed` between two calls. What was fed until then is in the state. */
export class Stopped extends Error {}

/** A decoder with its place in the context. */
export class Session {
  /** Tokens that the state has room for. */
  readonly capacity: number;
  /** Token ids are 0 to `vocabulary - 1`. */
  readonly vocabulary: number;
  #position = 0;

  /**
   * @param runner what calls the graphs.
   * @param artifact what is run.
   * @param between is awaited before every call: time for messages, and the place to throw `Stopped`.
   */
  constructor(
    private readonly runner: Runner,
    private readonly artifact: Artifact,
    private readonly between: () => Promise<void>,
  ) {
    this.capacity = artifact.context;
    this.vocabulary = artifact.vocab_size;
  }

  /** Tokens fed since the start or the last `reset`. */
  get position(): number {
    return this.#position;
  }

  /** Append tokens to the context, in chunks; the logits after the last one. */
  async feed(tokens: readonly number[]): Promise<Float32Array> {
    this.#check(tokens);
    const { chunk } = this.artifact;
    let logits: Float32Array = new Float32Array();
    for (let start = 0; start < tokens.length; start += chunk) {
      logits = await this.#step(tokens.slice(start, start + chunk));
    }
    return logits;
  }

  /** Forget everything. Rows of the state are overwritten before they are read again, so none needs to be cleared. */
  reset(): void {
    this.#position = 0;
  }

  /** Run 1 to `chunk` tokens; the logits of the last. */
  async #step(ids: readonly number[]): Promise<Float32Array> {
    await this.#closeFullWindows();
    const graph = graphFor(this.artifact, ids.length, this.#position);
    if (graph) {
      await this.between();
      const logits = await this.runner.run(new Call(graph, ids, this.#position));
      this.#position += ids.length;
      const last = logits.length > this.vocabulary ? ids.length - 1 : 0;
      return logits.subarray(last * this.vocabulary, (last + 1) * this.vocabulary);
    }
    if (ids.length === 1) {
      throw new BundleError(`No graph of this export takes a token at position ${this.#position}. Export it again.`);
    }
    const before = ids.slice(0, -1);
    const all = graphForAllButLogits(this.artifact, before.length, this.#position);
    if (all) {
      await this.between();
      await this.runner.run(new Call(all, before, this.#position));
      this.#position += before.length;
      return this.#step(ids.slice(-1));
    }
    let logits: Float32Array = new Float32Array();
    for (const id of ids) logits = await this.#step([id]);
    return logits;
  }

  /** Graphs of windows that are full cannot be called again before a reset, and may hold weights of their own. */
  async #closeFullWindows(): Promise<void> {
    for (const graph of this.artifact.graphs) {
      if (graph.window && graph.window <= this.#position) await this.runner.close?.(graph);
    }
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
