/** Where a bundle's files come from: a folder that the user picked, or the server that the page came from. */

import { BundleError, MANIFEST, type FileCard } from './manifest';

export interface Source {
  manifest(): Promise<Bytes>;
  /** The bytes of one of the manifest's files. */
  read(name: string, card: FileCard): Promise<Bytes>;
  /** Called with what `read` gave, once it has proven to be the right bytes. */
  keep(name: string, card: FileCard, bytes: Bytes): Promise<void>;
}

export type Bytes = Uint8Array<ArrayBuffer>;

/** A file and its path, which a `File` loses on its way to a worker. */
export interface PickedFile {
  readonly path: string;
  readonly file: File;
}

/** Read a file and compare it with its card. */
export async function readChecked(source: Source, name: string, card: FileCard | undefined): Promise<Bytes> {
  if (!card) throw new BundleError(`${MANIFEST} does not list “${name}”.`);
  const bytes = await source.read(name, card);
  if (bytes.length !== card.bytes || (await sha256(bytes)) !== card.sha256) {
    throw new BundleError(`“${name}” is not the file that was exported. Copy or export the bundle again.`);
  }
  await source.keep(name, card, bytes);
  return bytes;
}

export async function sha256(bytes: Bytes): Promise<string> {
  if (!crypto.subtle) throw new BundleError('Checksums need a secure page: open it by https or from localhost.');
  const digest = new Uint8Array(await crypto.subtle.digest('SHA-256', bytes));
  return Array.from(digest, (byte) => byte.toString(16).padStart(2, '0')).join('');
}

/** Files that the user picked, whose bundle is the folder of the topmost manifest. */
export class PickedSource implements Source {
  readonly #files: Map<string, File>;
  readonly #folder: string;

  constructor(picked: readonly PickedFile[]) {
    this.#files = new Map(picked.map(({ path, file }) => [path, file]));
    const manifests = picked.map(({ path }) => path).filter((path) => `/${path}`.endsWith(`/${MANIFEST}`));
    manifests.sort((a, b) => a.length - b.length);
    const first = manifests[0];
    if (first === undefined) {
      throw new BundleError(`There is no ${MANIFEST} in it. A bundle is a folder that “edgeqkv export” wrote.`);
    }
    this.#folder = first.slice(0, -MANIFEST.length);
  }

  manifest(): Promise<Bytes> {
    return this.#bytes(MANIFEST);
  }

  read(name: string): Promise<Bytes> {
    return this.#bytes(name);
  }

  async keep(): Promise<void> {}

  async #bytes(name: string): Promise<Bytes> {
    const file = this.#files.get(this.#folder + name);
    if (!file) throw new BundleError(`The bundle is incomplete: “${name}” is missing.`);
    return new Uint8Array(await file.arrayBuffer());
  }
}

/**
 * Files beside the page. What was read once is kept in the browser's cache under its checksum, so that the page opens
 * without a network, and so that a new export under the same names is read anew.
 */
export class ServedSource implements Source {
  static readonly #CACHE = 'edgeqkv-bundle';

  constructor(readonly base: string) {}

  async manifest(): Promise<Bytes> {
    const url = this.#url(MANIFEST);
    // A network that seems to be there may fail all the same.
    const fresh = navigator.onLine ? await fetch(url, { cache: 'no-cache' }).catch(() => undefined) : undefined;
    const response = fresh ?? (await (await this.#cache())?.match(url));
    if (!response?.ok || response.headers.get('content-type')?.includes('html')) throw new NothingServed();
    const bytes = new Uint8Array(await response.arrayBuffer());
    await this.#put(url, bytes);
    return bytes;
  }

  async read(name: string, card: FileCard): Promise<Bytes> {
    const url = this.#url(name, card);
    const kept = await (await this.#cache())?.match(url);
    if (kept) return new Uint8Array(await kept.arrayBuffer());
    const response = await fetch(url).catch(() => null);
    if (!response?.ok) throw new BundleError(`“${name}” could not be loaded from ${this.base}.`);
    return new Uint8Array(await response.arrayBuffer());
  }

  async keep(name: string, card: FileCard, bytes: Bytes): Promise<void> {
    const cache = await this.#cache();
    const url = this.#url(name, card);
    if (!cache || (await cache.match(url))) return;
    await cache.delete(url, { ignoreSearch: true }); // an earlier export's
    await this.#put(url, bytes);
  }

  #url(name: string, card?: FileCard): string {
    const url = new URL(name, this.base);
    if (card) url.searchParams.set('sha256', card.sha256);
    return url.href;
  }

  async #cache(): Promise<Cache | null> {
    return 'caches' in globalThis ? caches.open(ServedSource.#CACHE) : null;
  }

  async #put(url: string, bytes: Bytes): Promise<void> {
    // A full disk costs the offline copy, not the run.
    await (await this.#cache())?.put(url, new Response(bytes)).catch(() => undefined);
  }
}

/** No bundle lies beside the page, which is no error: the user picks one. */
export class NothingServed extends Error {}
