"""Whether memory stays flat: very many decode steps in every runtime, and very many sessions opened and left.

    python tests/fuzz/soak.py --steps 100000 --opens 1000 --targets onnx,executorch,coreml

Resident memory is looked at 50 times after the first tenth, and a straight line is laid through what was found. It may
rise by 32 bytes a step and 4 KiB an open at most, or by 1 MiB in all, which is what an allocator comes and goes by.
Core ML is run by the evaluator, an interpreter in Python that is many times as slow, so that it gets a tenth of the
steps and opens unless ``--evaluator-share`` says otherwise. Linux only. Exits 1 if memory is not flat.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from edgeqkv import export, load
from edgeqkv.bundle.bundle import Bundle
from edgeqkv.checkpoints.synthetic import write_random_checkpoint
from edgeqkv.run.session import Session, open_bundle

TINY: Final = {"n_layer": 2, "n_embd": 32, "n_head": 4, "n_positions": 128, "vocab_size": 97}
SAMPLES: Final = 50
MOST_BYTES: Final = {"steps": 32, "opens": 4096}
NOISE: Final = 1 << 20


@dataclass(frozen=True)
class Line:
    """What resident memory did over so many repetitions.

    Attributes:
        slope: bytes a repetition.
        first, last: bytes at both ends.
    """

    what: str
    count: int
    slope: float
    first: int
    last: int
    seconds: float

    @property
    def flat(self) -> bool:
        return self.slope <= MOST_BYTES[self.what] or self.slope * self.count <= NOISE

    def __str__(self) -> str:
        ends = f"{self.first / 2**20:.1f} → {self.last / 2**20:.1f} MiB"
        told = f"{self.count:,} {self.what}, {ends}, {self.slope:+.2f} bytes each ({MOST_BYTES[self.what]} allowed)"
        return f"{told}, {self.seconds:.0f} s: {'flat' if self.flat else 'NOT FLAT'}"


def resident() -> int:
    """Bytes of this process in memory."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def measured(what: str, count: int, repeat: Callable[[int], None]) -> Line:
    """Repeat something, given which time it is, and look at the memory."""
    started, found = time.monotonic(), []
    every = max(1, (count - count // 10) // SAMPLES)
    for index in range(count):
        repeat(index)
        if index >= count // 10 and index % every == 0:
            found.append((index, resident()))
    at, sizes = np.array(found, np.float64).T
    slope = float(np.polyfit(at - at.mean(), sizes, 1)[0])
    return Line(what, count, slope, int(sizes[0]), int(sizes[-1]), time.monotonic() - started)


def soak(folder: Path, steps: int, opens: int) -> list[Line]:
    """Both measurements of one bundle, in this process."""
    bundle = Bundle(folder)
    session = open_bundle(bundle)
    assert isinstance(session, Session)
    prompt = np.arange(20) % session.vocab_size

    def step(index: int) -> None:
        if session.position == session.capacity:
            session.reset()
            session.feed(prompt)  # in a chunk, as a prompt is
        session.feed([index % session.vocab_size])

    def reopen(index: int) -> None:
        again = open_bundle(Bundle(folder))
        assert isinstance(again, Session)
        again.feed([1, 2, 3])

    return [measured("steps", steps, step), measured("opens", opens, reopen)]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--opens", type=int, default=1000)
    parser.add_argument("--evaluator-share", type=float, default=0.1, help="of both, for Core ML")
    parser.add_argument("--targets", default="onnx,executorch,coreml")
    given = parser.parse_args()
    failed = 0
    with tempfile.TemporaryDirectory(prefix="soak-") as place:
        model = load(write_random_checkpoint(Path(place) / "model.pt", "q-k=v+gqa2", std=0.2, **TINY))
        for target in given.targets.split(","):
            folder = Path(place) / target
            export(model, target, out=folder, chunk=16, verify=False)
            share = given.evaluator_share if target == "coreml" else 1
            process = os.fork()  # so that no runtime's memory is another's
            if process == 0:
                code = 1
                try:
                    lines = soak(folder, max(100, int(given.steps * share)), max(20, int(given.opens * share)))
                    for line in lines:
                        print(f"{target}: {line}", flush=True)
                    code = int(not all(line.flat for line in lines))
                finally:
                    os._exit(code)
            failed += os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) != 0
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
