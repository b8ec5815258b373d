/** `device-report.json`: one run on a device, in the form that all of the sample apps write. */

import { version } from '../package.json';
import type { Opened, Run } from './protocol';
import { counted } from './format';
import { FIGURE } from './page-memory';

const APP = { name: 'edgeqkv web', version };

export interface Measured {
  readonly bundle: Opened;
  readonly prefill: Run;
  readonly decode: Run;
  /** Of the whole page in bytes, without the model and after the run; null where the browser does not tell. */
  readonly memory: { readonly before: number; readonly after: number } | null;
  readonly stateBytes: number;
}

export interface Place {
  readonly device: string;
  readonly processor: string | null;
  readonly system: Software;
  readonly browser: Software;
}

interface Software {
  readonly name: string;
  readonly version: string;
}

/** `device-report.json`, whose schema is device_tests/device-report.schema.json. */
export function deviceReport(measured: Measured, place: Place, date: Date): string {
  const { bundle, prefill, decode, memory } = measured;
  const { runtime } = bundle;
  const report = {
    format: 1,
    date: date.toISOString(),
    app: APP,
    device: { name: place.device, processor: place.processor, ram_bytes: null },
    system: place.system,
    browser: place.browser,
    runtime: { name: 'onnxruntime-web', version: runtime.version, settings: `${runtime.engine}, ${counted(runtime.threads, 'thread').replace('\u00A0', ' ')}` },
    manifest_sha256: bundle.manifestSha256,
    target: 'onnx',
    load_seconds: bundle.loadSeconds,
    prefill,
    decode,
    state_bytes: measured.stateBytes,
    memory: memory && {
      figure: FIGURE,
      before_bytes: memory.before,
      phases: { decode: memory.after }, // the heap never shrinks, so the end has the peak
    },
    thermal: null, // no browser tells
  };
  return `${JSON.stringify(report, null, 2)}\n`;
}

interface UserAgentData {
  getHighEntropyValues(hints: readonly string[]): Promise<{
    readonly model?: string;
    readonly platform?: string;
    readonly platformVersion?: string;
    readonly architecture?: string;
    readonly fullVersionList?: readonly { readonly brand: string; readonly version: string }[];
  }>;
}

/** What the browser tells of where it runs. Only some name the device; the user can. */
export async function whereAmI(): Promise<Place> {
  const agent = (navigator as { userAgentData?: UserAgentData }).userAgentData;
  const told = await agent
    ?.getHighEntropyValues(['model', 'platformVersion', 'architecture', 'fullVersionList'])
    .catch(() => undefined);
  const brand = told?.fullVersionList?.find(({ brand }) => !/not.?a.?brand|^chromium$/i.test(brand));
  const chromium = told?.fullVersionList?.find(({ brand }) => brand === 'Chromium');
  return {
    device: told?.model ?? '',
    processor: told?.architecture || null,
    system: { name: told?.platform || systemFrom(navigator.userAgent), version: told?.platformVersion || 'unknown' },
    browser: software(brand ?? chromium) ?? browserFrom(navigator.userAgent),
  };
}

function software(brand: { readonly brand: string; readonly version: string } | undefined): Software | undefined {
  return brand && { name: brand.brand, version: brand.version };
}

function systemFrom(agent: string): string {
  return /iPhone|iPad|Android|Mac OS X|Windows|Linux/.exec(agent)?.[0] ?? 'unknown';
}

function browserFrom(agent: string): Software {
  const found = /(Firefox)\/([\d.]+)/.exec(agent) ?? /Version\/([\d.]+).*(Safari)/.exec(agent);
  if (!found) return { name: 'unknown', version: 'unknown' };
  const [, first, second] = found as unknown as [string, string, string];
  return first === 'Firefox' ? { name: first, version: second } : { name: second, version: first };
}
