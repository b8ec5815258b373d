"""Thousands of commands with damaged, mistaken or malicious inputs, of which none may do harm.

    python tests/fuzz/campaign.py --cases 10000 --seed 0
    python tests/fuzz/campaign.py --seed 0 --only 4711 --keep /tmp/case     runs a single case, and keeps its files

A case fails if its command raises, prints a traceback, or ends with another code than 0, 1 or 2; says nothing or too
much with code 2; prints what is no JSON under ``--json``; changes or loses a file that it was given, or leaves one
behind; runs code of its input; takes a gigabyte; takes too long; or takes the process down. Linux only.

Cases run in a fork of a process that has imported everything. One that dies or hangs is counted and replaced. A case
depends on the seed and its number alone, so that ``--only`` repeats it.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any, Final

from cases import KINDS, SHARES
from samples import Samples, make
from trial import Outcome, Place, limit, run

from edgeqkv.children import orderly_end

PATIENCE: Final = 60
"""Seconds that a case may take: hundreds of times what it needs, for machines that are busy."""

GENERATION: Final = 300
"""Cases that one process runs, so that what they leave in it does not add up."""


def kind_of(seed: int, number: int, kinds: Sequence[str]) -> str:
    return Random(f"{seed} {number}").choices(kinds, [SHARES[each] for each in kinds])[0]


def run_case(samples: Samples, place: Place, kind: str, seed: int, number: int) -> tuple[list[str], Outcome]:
    """Damage something and have a command read it."""
    place.clear()
    random = Random(f"{seed} {number} {kind}")
    case = KINDS[kind](random, samples, place)
    return case.arguments, run(place, case)


class Worker:
    """A fork that runs cases and says of each, in a line of JSON, when it begins and how it ended."""

    def __init__(self, samples: Samples, folder: Path, kinds: Sequence[str], seed: int, numbers: Sequence[int]) -> None:
        reader, writer = os.pipe()
        self.process = os.fork()
        if self.process == 0:
            code, told = 1, os.dup(2)
            try:
                os.close(reader)
                _work(writer, samples, folder, kinds, seed, numbers)
                code = 0
            except BaseException:  # a fault of the campaign's own
                os.dup2(told, 2)
                traceback.print_exc()
            finally:
                os._exit(code)
        os.close(writer)
        self._reader, self._rest = reader, b""

    def lines(self) -> Iterator[dict[str, Any]]:
        """What it says; ends with it, or when it has said nothing for too long."""
        while select.select([self._reader], [], [], PATIENCE)[0]:
            data = os.read(self._reader, 1 << 16)
            if not data:
                return
            *whole, self._rest = (self._rest + data).split(b"\n")
            yield from map(json.loads, whole)

    def end(self) -> str:
        """How it ended, which it does now at the latest."""
        os.close(self._reader)
        for _ in range(100):
            found, status = os.waitpid(self.process, os.WNOHANG)
            if found:
                code = os.waitstatus_to_exitcode(status)
                return signal.Signals(-code).name if code < 0 else f"exit {code} of the process"
            time.sleep(0.01)
        os.kill(self.process, signal.SIGKILL)
        os.waitpid(self.process, 0)
        return "hang"


def _work(writer: int, samples: Samples, folder: Path, kinds: Sequence[str], seed: int, numbers: Sequence[int]) -> None:
    limit()
    place = Place(folder)

    def say(**line: Any) -> None:
        os.write(writer, json.dumps(line).encode() + b"\n")

    for number in numbers:
        kind = kind_of(seed, number, kinds)
        say(started=number, kind=kind)
        began = time.process_time()
        arguments, outcome = run_case(samples, place, kind, seed, number)
        seconds = time.process_time() - began
        say(number=number, ended=outcome.ended, problems=outcome.problems, arguments=arguments, seconds=seconds)
        if any(problem.startswith("memory") for problem in outcome.problems):
            return  # the next one is measured from anew


class Summary:
    """Counts, and every case that failed."""

    def __init__(self) -> None:
        self.ended: dict[str, Counter[str]] = {}
        self.failed: Counter[str] = Counter()
        self.failures = 0
        self.slowest: list[tuple[float, int]] = []

    def add(self, number: int, kind: str, ended: str, problems: Sequence[str], arguments: Sequence[str]) -> None:
        self.ended.setdefault(kind, Counter())[ended] += 1
        self.failures += bool(problems)
        for problem in problems:
            self.failed[problem.partition(":")[0]] += 1
            print(f"case {number}, {kind}: {problem}\n    edgeqkv {' '.join(map(ascii, arguments))[:300]}", flush=True)

    def print(self, seed: int, seconds: float) -> None:
        kinds = sorted({each for counts in self.ended.values() for each in counts})
        print("\t".join(["kind", "cases", *kinds]))
        for kind, counts in self.ended.items():
            print("\t".join([kind, str(counts.total()), *(str(counts[each]) for each in kinds)]))
        total = sum(counts.total() for counts in self.ended.values())
        for problem, count in self.failed.most_common():
            print(f"{problem}: {count}")
        slow = ", ".join(f"case {number} {taken:.1f} s" for taken, number in sorted(self.slowest)[:-4:-1])
        print(f"slowest: {slow}")
        print(f"{total} cases, seed {seed}, {seconds:.0f} s: {self.failures} failed", flush=True)


def campaign(
    summary: Summary, samples: Samples, folder: Path, kinds: Sequence[str], seed: int, numbers: Sequence[int]
) -> None:
    """Run cases in one process after the other, and count them."""
    left = list(numbers)
    while left:
        worker = Worker(samples, folder, kinds, seed, left[:GENERATION])
        current: tuple[int, str] | None = None
        for line in worker.lines():
            if "started" in line:
                current = (line["started"], line["kind"])
                continue
            assert current
            summary.add(*current, line["ended"], line["problems"], line["arguments"])
            summary.slowest = sorted([*summary.slowest, (line["seconds"], line["number"])])[-3:]
            left.remove(line["number"])
            current = None
        how = worker.end()
        if current is not None:
            what = f"hang: more than {PATIENCE} s" if how == "hang" else f"crash: {how}"
            summary.add(*current, how, [what], ["…"])
            left.remove(current[0])
        elif how != "exit 0 of the process":
            raise RuntimeError(f"between two cases, a process ended: {how}")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=0, help="the number of the first case")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--targets", default="onnx,executorch,coreml")
    parser.add_argument("--only", type=int, help="run this case alone, and show what it prints")
    parser.add_argument("--keep", type=Path, help="a folder for the files of --only, or for the samples")
    given = parser.parse_args()
    numbers = range(given.first, given.first + given.cases) if given.only is None else [given.only]
    started, summary = time.monotonic(), Summary()
    with tempfile.TemporaryDirectory(prefix="fuzz-") as temporary:
        folder = given.keep or Path(temporary)
        (folder / "samples").mkdir(parents=True, exist_ok=True)
        (folder / "place").mkdir(exist_ok=True)
        samples = make((folder / "samples").resolve(), given.targets.split(","))
        place, kinds = (folder / "place").resolve(), given.kinds.split(",")
        try:
            with orderly_end():
                campaign(summary, samples, place, kinds, given.seed, numbers)
        finally:  # of as many as there were, where somebody has had enough
            summary.print(given.seed, time.monotonic() - started)
        if given.only is not None:
            for name in ("out.log", "err.log"):
                print((folder / "place" / name).read_text(errors="replace")[:5000])
        elif given.keep:
            shutil.rmtree(folder / "place", ignore_errors=True)
    return int(summary.failures > 0)


if __name__ == "__main__":
    sys.exit(main())
