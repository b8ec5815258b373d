/** A bundle's facts, for people. */

import { judgements } from './budget';
import { binarySize, counted, percent, size } from './format';
import { stateBytes, stateCut } from './manifest';
import type { Opened } from './protocol';

export interface Fact {
  readonly name: string;
  readonly value: string;
  readonly note?: string;
  readonly tone?: 'good' | 'warn' | 'bad';
}

export function factsOf({ manifest, filesRead, bytesRead }: Opened): Fact[] {
  const { model, artifact, verification } = manifest;
  return [
    {
      name: 'Variant',
      value: model.variant,
      note: `${millions(model.parameters)} parameters, ${artifact.weights} weights`,
    },
    { name: 'Context', value: counted(artifact.context, 'token'), note: `prefilled in calls of ${artifact.chunk}` },
    {
      name: 'KV state',
      value: `${binarySize(stateBytes(artifact))} ${artifact.state}`,
      note: cut(stateCut(manifest)),
    },
    { name: 'Files', value: size(bytesRead), note: `${counted(filesRead, 'file')}, checksums right`, tone: 'good' },
    verified(verification),
  ];
}

const WORDS: Record<string, string> = { fits: 'should fit', tight: 'may be tight', 'does not fit': 'should not fit' };

/** What the bundle's budget predicts for the devices that it was exported for. This device is none of them. */
export function predictionsOf({ budget }: Opened): Fact[] {
  if (budget === null) return [];
  const tones: Record<string, Fact['tone']> = { fits: 'good', tight: 'warn', 'does not fit': 'bad' };
  return judgements(budget, 'onnx').map(({ title, verdict, peakBytes }) => {
    const tone = tones[verdict];
    const note = `${size(peakBytes)} for the app, predicted`;
    return { name: title, value: WORDS[verdict] ?? verdict, note, ...(tone && { tone }) };
  });
}

function cut(part: number): string {
  return part > 0 ? `${percent(part)} less than ordinary attention` : 'as ordinary attention';
}

function verified(verification: Opened['manifest']['verification']): Fact {
  if (!verification) return { name: 'Export', value: 'not verified', tone: 'warn' };
  const { passed, positions, max_abs_error, tolerance } = verification;
  if (!passed) return { name: 'Export', value: 'failed its verification', tone: 'bad' };
  return {
    name: 'Export',
    value: 'verified',
    note: `${counted(positions, 'token')}, logits off by ${short(max_abs_error)} at most (${short(tolerance)} allowed)`,
    tone: 'good',
  };
}

function millions(count: number): string {
  return count >= 1e9 ? `${(count / 1e9).toFixed(1)}\u00A0B` : `${(count / 1e6).toFixed(count < 1e7 ? 1 : 0)}\u00A0M`;
}

/** A small number: `1.7e-5`. */
function short(value: number): string {
  return value.toExponential(1);
}
