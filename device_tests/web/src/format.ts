/** Numbers in words. */

/** Bytes in decimal units, three digits: `512 kB`, `1.05 MB`. */
export function size(bytes: number): string {
  const units = ['B', 'kB', 'MB', 'GB'];
  let value = bytes;
  let unit = 0;
  while (value >= 999.5 && unit < units.length - 1) {
    value /= 1000;
    unit++;
  }
  const digits = unit === 0 || value >= 99.95 ? 0 : value >= 9.995 ? 1 : 2;
  return `${value.toFixed(digits)}\u00A0${units[unit]}`;
}

/** Bytes in binary units, as edgeqkv gives the KV state: `512 KiB`, `20 MiB`. */
export function binarySize(bytes: number): string {
  const [value, unit] = bytes < 2 ** 20 ? [bytes / 2 ** 10, 'KiB'] : [bytes / 2 ** 20, 'MiB'];
  return `${Number(value.toFixed(1))}\u00A0${unit}`;
}

export function seconds(value: number): string {
  return value < 1 ? `${(value * 1000).toFixed(0)}\u00A0ms` : `${value.toFixed(1)}\u00A0s`;
}

/** Tokens per second: `87.3 tokens/s`. */
export function speed({ tokens, seconds: time }: { tokens: number; seconds: number }): string {
  const value = tokens / time;
  return `${value >= 100 ? value.toFixed(0) : value.toFixed(1)}\u00A0tokens/s`;
}

export function percent(part: number): string {
  return `${Number((part * 100).toFixed(1))}\u00A0%`;
}

/** A count with its noun: `1 file`, `4 files`. */
export function counted(count: number, noun: string): string {
  return `${count}\u00A0${noun}${count === 1 ? '' : 's'}`;
}
