/** Feeding tokens to a decoder, whatever runs it: checks, chunks and positions, as in edgeqkv/session.py. */

export class ContextFull extends Error {}
export class InputError extends Error {}
/** The user stopped a `feed` between two chunks. What was fed until then is in the state. */
export class Stopped extends Error {}

export abstract class Decoder {
  #position = 0;

  /**
   * @param capacity tokens that the state has room for.
   * @param chunk the most tokens that one step takes.
   * @param vocabulary token ids are 0 to `vocabulary - 1`.
   * @param between is awaited before every step: time for messages, and the place to throw `Stopped`.
   */
  constructor(
    readonly capacity: number,
    readonly chunk: number,
    readonly vocabulary: number,
    private readonly between: () => Promise<void>,
  ) {}

  /** Tokens fed since the start or the last `reset`. */
  get position(): number {
    return this.#position;
  }

  /** Append tokens to the context, in chunks; the logits after the last one. */
  async feed(tokens: readonly number[]): Promise<Float32Array> {
    this.#check(tokens);
    let logits: Float32Array = new Float32Array();
    for (let start = 0; start < tokens.length; start += this.chunk) {
      const piece = tokens.slice(start, start + this.chunk);
      await this.between();
      logits = await this.step(piece, this.#position);
      this.#position += piece.length;
    }
    return logits;
  }

  /** Forget everything. Rows of the state are overwritten before they are read again, so none needs to be cleared. */
  reset(): void {
    this.#position = 0;
  }

  /** Run 1 to `chunk` tokens standing at `position` and after it; the logits of the last. */
  protected abstract step(ids: readonly number[], position: number): Promise<Float32Array>;

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
