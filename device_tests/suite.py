"""What the suites share: the demo's bundles, a greedy run of one in Python, and the way to say "skipped"."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final, NoReturn

import numpy as np
import numpy.typing as npt

__all__ = ["CHUNK", "PROMPT", "SKIPPED", "WORK", "export_demo", "greedy", "prompt_ids", "skip"]

SKIPPED: Final = 77
"""The exit code of a suite that cannot run here, after the conventions of automake and meson."""

WORK: Final = Path(__file__).parent.parent / "build" / "device_tests"
"""Where suites put what they write."""

CHUNK: Final = 16
"""The demo's bundles take so many tokens a call, so that a short prompt already needs several calls."""

PROMPT: Final = (
    "The builtins namespace associated with the execution of a code block is actually found by looking up the name "
    '"__builtins__" in its glob'
)
"""45 tokens: three calls, the last of them not full.

Of many sentences, this is one after which no two tokens come close: in every bundle here, and for 50 steps, the most
likely token is ahead by 0.1. Integer kernels of different processors do not round alike, and would decide a tie
differently.
"""


def skip(reason: str) -> NoReturn:
    """End the process as skipped; the reason is its last line."""
    print(reason, flush=True)
    sys.exit(SKIPPED)


def export_demo(
    name: str, *, weights: str, form: str = "portable", state: str = "fp32", devices: tuple[str, ...] = ()
) -> Path:
    """The demo model as an ONNX bundle in ``WORK/name``, verified; its folder."""
    import edgeqkv
    from edgeqkv import demo

    folder = WORK / name
    edgeqkv.export(
        edgeqkv.load(demo.checkpoint_path()),
        "onnx",
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
    from edgeqkv.tokenizer import Tokenizer

    return Tokenizer(demo.tokenizer_path()).encode(PROMPT)


def greedy(bundle: Path, prompt: list[int], steps: int, engine: str | None = None) -> npt.NDArray[np.float32]:
    """Logits ``[steps, vocab]`` of a run that feeds the prompt, then always the most likely token."""
    import edgeqkv

    session = edgeqkv.open(bundle, engine=engine)
    rows = [session.feed(prompt)]
    while len(rows) < steps:
        rows.append(session.feed([int(rows[-1].argmax())]))
    return np.stack(rows)
