/** What the bundle's `report.json` says about devices: the verdicts that `edgeqkv budget` came to. */

export interface Judgement {
  readonly title: string;
  readonly verdict: string;
  readonly peakBytes: number;
}

/** Every device's verdict on what the bundle holds for `target`. */
export function judgements(json: string, target: string): Judgement[] {
  const report = JSON.parse(json);
  return report.devices
    .filter((answer: { candidate: string }) => answer.candidate.split(' ')[0] === target)
    .map((answer: { title: string; verdict: string; peak_bytes: number }) => ({
      title: answer.title,
      verdict: answer.verdict,
      peakBytes: answer.peak_bytes,
    }));
}
