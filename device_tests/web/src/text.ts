/** Text to token ids and back. */

import { Tokenizer as Library } from '@huggingface/tokenizers';

export class Tokenizer {
  readonly #library: Library;

  /** `json`: the content of a `tokenizer.json`. */
  constructor(json: string) {
    this.#library = new Library(JSON.parse(json), {});
  }

  /** Token ids of a text, with nothing added to it. */
  encode(text: string): number[] {
    return this.#library.encode(text, { add_special_tokens: false }).ids;
  }

  /** The text of token ids, without special tokens. */
  decode(ids: readonly number[]): string {
    return this.#library.decode([...ids], { skip_special_tokens: true, clean_up_tokenization_spaces: false });
  }
}

/** Text piece by piece as tokens arrive, never splitting a character that spans several tokens. */
export class TextStream {
  #ids: number[] = [];
  #shown = '';
  #before = 0;

  constructor(private readonly tokenizer: Tokenizer) {}

  /** The text that a token completes; empty while a character lacks bytes. */
  push(token: number): string {
    this.#ids.push(token);
    const text = this.tokenizer.decode(this.#ids);
    if (text.length <= this.#shown.length || text.endsWith('\uFFFD')) return '';
    const piece = text.slice(this.#shown.length);
    // What tokens read as depends on those before them, so the ones of this piece stay for the next.
    this.#ids = this.#ids.slice(this.#before);
    this.#before = this.#ids.length;
    this.#shown = this.tokenizer.decode(this.#ids);
    return piece;
  }
}
