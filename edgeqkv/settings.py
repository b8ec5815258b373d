"""Every number that a user can set, on the command line or in Python, and its range.

A bound that depends on the model (a context, the ids of tokens) is checked where the model is known, by `check` too.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from edgeqkv.errors import InputError

__all__ = ["SETTINGS", "Setting", "check", "check_all"]


@dataclass(frozen=True)
class Setting:
    """A number that can be set.

    Attributes:
        complaint: what is said of a value beyond the range.
        least, most: the bounds, themselves allowed; ``most`` is None where more is merely of no use.
        whole: whether it is an integer.
        above: whether ``least`` itself is too little.
    """

    complaint: str
    least: float
    most: float | None = None
    whole: bool = True
    above: bool = False

    def holds(self, value: Any, most: float | None = None) -> bool:
        """Whether a value is a number within the range; ``most`` as the model has it, else the setting's own."""
        if isinstance(value, bool) or not hasattr(value, "__index__" if self.whole else "__float__"):
            return False
        try:
            if not math.isfinite(value):
                return False
        except OverflowError:  # an integer beyond every float
            return self.whole and value > 0 and (self.most if most is None else most) is None
        top = self.most if most is None else most
        return (value > self.least if self.above else value >= self.least) and (top is None or value <= top)

    def allowed(self, most: float | None = None) -> str:
        """The range, for people."""
        top = self.most if most is None else most
        least = f"{'above ' if self.above else ''}{self.least:g}"
        return f"{least} or more" if top is None else f"{least} to {_shown(top)}"


SETTINGS: Final[Mapping[str, Setting]] = {
    "context": Setting("a context of {} is impossible", 1),
    "chunk": Setting("a chunk of {} is impossible", 1),
    "block": Setting("blocks of {} are impossible", 16, 1024),
    "batch": Setting("a batch of {} is impossible", 1, 1024),
    "heads": Setting("{} attention heads are impossible", 1, 65536),
    "tune": Setting("{} steps of tuning are impossible", 0, 1_000_000),
    "windows": Setting("{} windows of a text are impossible", 1, 1_000_000),
    "distill": Setting("{} steps of distillation are impossible", 1, 10_000_000),
    "distill_tokens": Setting("{} tokens of distillation are impossible", 1, 10**13),
    "distill_batch": Setting("{} windows a step of distillation are impossible", 1, 65536),
    "max_degradation": Setting(
        "--max-degradation {} is impossible, as the percent by which a perplexity may rise", 0, whole=False
    ),
    "mean": Setting("mean {} is impossible, of pixels of 0 to 1", -1e4, 1e4, whole=False),
    "std": Setting("std {} is impossible, as a deviation of pixels of 0 to 1", 1e-4, 1e4, whole=False),
    "temperature": Setting("temperature {} is impossible", 0, whole=False),
    "top_k": Setting("top-k {} is impossible", 0),
    "top_p": Setting("top-p {} is impossible", 0, 1, whole=False, above=True),
    "seed": Setting("seed {} is impossible", 0, 2**64 - 1),
    "max_tokens": Setting("{} tokens cannot be generated", 1),
    "prompt": Setting("prompt {} is impossible", 1, 1_000_000),
    "generate": Setting("generate {} is impossible", 1, 1_000_000),
    "repeats": Setting("repeats {} is impossible", 1, 10_000),
    "rounds": Setting("rounds {} is impossible", 1, 10_000),
    "warmup": Setting("warm-up {} is impossible", 0, 10_000),
    "threads": Setting("{} threads are impossible", 1, 1024),
    "fills": Setting("a fill of {} is impossible", 1, 10_000_000),
}
"""Every number, by the name of the field that holds it."""


def check(name: str, value: Any, most: float | None = None, why: str = "") -> None:
    """Raise `InputError` where a value is beyond its range.

    Args:
        name: of the setting.
        value: what was given; None where nothing was.
        most: the upper bound, where something else sets it.
        why: what sets it, for people.
    """
    setting = SETTINGS[name]
    if value is None or setting.holds(value, most):
        return
    kind = "" if not setting.whole or hasattr(value, "__index__") else "a whole number, "
    raise InputError(f"{setting.complaint.format(_shown(value))}{why}; choose {kind}{setting.allowed(most)}")


def check_all(**values: Any) -> None:
    """`check` each of several numbers."""
    for name, value in values.items():
        check(name, value)


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        return repr(value)[:40]
    whole = operator.index(value)
    return str(whole) if abs(whole) < 10**21 else f"about {'-' if whole < 0 else ''}2^{whole.bit_length()}"
