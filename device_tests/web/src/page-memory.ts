/** What the browser says that the page takes: the page, its workers and their WebAssembly memory. */

interface Measuring {
  measureUserAgentSpecificMemory?: () => Promise<{ readonly bytes: number }>;
}

export const FIGURE = 'measureUserAgentSpecificMemory';

/**
 * Bytes; null where the browser does not tell, which it does only if the page is isolated from other origins. Chromium
 * asks every thread first and takes up to a minute where one does not answer, as the runtime's idle threads do not.
 */
export async function pageMemory(): Promise<number | null> {
  const measuring = performance as Measuring;
  if (!crossOriginIsolated || !measuring.measureUserAgentSpecificMemory) return null;
  return measuring.measureUserAgentSpecificMemory().then(
    ({ bytes }) => bytes,
    () => null,
  );
}
