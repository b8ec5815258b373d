"""What the suites share: the demo's bundles, a greedy run of one in Python, and the way to say "skipped"."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NoReturn

import numpy as np
import numpy.typing as npt

__all__ = ["CHUNK", "PROMPT", "SKIPPED", "STEPS", "WORK", "Difference", "export_demo", "greedy", "prompt_ids", "skip"]

SKIPPED: Final = 77
"""The exit code of a suite that cannot run here, after the conventions of automake and meson."""

WORK: Final = Path(__file__).parent.parent / "build" / "device_tests"
"""Where suites put what they write."""

CHUNK: Final = 16
"""The demo's bundles take so many tokens a call, so that a short prompt already needs several calls."""

PROMPT: Final = (
    'Before an "except" clause\u2019s suite is executed, the exception is stored in the "sys" module, where it can be'
)
"""41 tokens: three calls, the last of them not full.

Of many sentences, this is one after which no two tokens come close: in every bundle here, and for 50 steps, the most
likely token is ahead by 0.09. Integer kernels of different processors do not round alike, and would decide a tie
differently.
"""

STEPS: Final = 50
"""Tokens that are compared."""


def skip(reason: str) -> NoReturn:
    """End the process as skipped; the reason is its last line."""
    print(reason, flush=True)
    sys.exit(SKIPPED)


def export_demo(
    name: str,
    *,
    weights: str,
    target: str = "onnx",
    form: str = "portable",
    state: str = "fp32",
    devices: tuple[str, ...] = (),
) -> Path:
    """The demo model as a bundle in ``WORK/name``, verified; its folder."""
    import edgeqkv
    from edgeqkv import demo

    folder = WORK / name
    edgeqkv.export(
        edgeqkv.load(demo.checkpoint_path()),
        target,
        out=folder,
        weights=weights,
        form=form,
        state=state,
        chunk=CHUNK,
        tokenizer=demo.tokenizer_path(),
        devices=devices,
        overwrite=True,
    )
    return folder


def prompt_ids() -> list[int]:
    """`PROMPT` in the demo's tokens."""
    from edgeqkv import demo
    from edgeqkv.run.tokenizer import Tokenizer

    return Tokenizer(demo.tokenizer_path()).encode(PROMPT)


def greedy(bundle: Path, prompt: list[int], engine: str | None = None) -> npt.NDArray[np.float32]:
    """Logits ``[STEPS, vocab]`` of a run that feeds the prompt, then always the most likely token.

    Without an engine named, in the target's own."""
    import edgeqkv

    session = edgeqkv.open(bundle, engine=engine)
    rows = [session.feed(prompt)]
    while len(rows) < STEPS:
        rows.append(session.feed([int(rows[-1].argmax())]))
    return np.stack(rows)


@dataclass(frozen=True)
class Difference:
    """How far two greedy runs of so many ``tokens`` are from each other: tokens in common before the first that
    differs, and the largest difference of a logit until then (after it, the two have read different texts)."""

    tokens: int
    equal_tokens: int
    logit: float
    allowed: float

    @classmethod
    def between(cls, found: npt.NDArray[np.float32], reference: npt.NDArray[np.float32], allowed: float) -> Difference:
        same = found.argmax(axis=1) == reference.argmax(axis=1)
        equal = len(same) if same.all() else int(same.argmin())
        compared = slice(0, equal + 1)
        return cls(len(same), equal, float(np.abs(found[compared] - reference[compared]).max()), allowed)

    @property
    def passed(self) -> bool:
        return self.equal_tokens == self.tokens and self.logit <= self.allowed

    def __str__(self) -> str:
        return (
            f"{self.equal_tokens} of {self.tokens} tokens equal, largest difference of a logit {self.logit:.1e} "
            f"({self.allowed:.1e} allowed)"
        )
