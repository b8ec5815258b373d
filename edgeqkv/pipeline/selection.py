"""Which layers a conversion takes: all, those that are named, or those that a size or a measured loss allows."""

from __future__ import annotations

import zlib
from typing import Protocol

import numpy as np
import numpy.typing as npt

from edgeqkv.bundle.manifest import Quality
from edgeqkv.convert.choice import most_that_hold, within_budget
from edgeqkv.convert.conversion import Conversion, candidates
from edgeqkv.errors import InputError, VerificationFailed
from edgeqkv.model.model import Model
from edgeqkv.progress import Progress
from edgeqkv.run.perplexity import original_perplexity

__all__ = ["Measure", "check_choice", "check_quality", "chosen"]


class Asked(Protocol):
    """What of a conversion's specification chooses layers (`edgeqkv.pipeline.conversion.ConvertSpec`)."""

    @property
    def variant(self) -> str: ...
    @property
    def windows(self) -> int: ...
    @property
    def layers(self) -> tuple[int, ...] | None: ...
    @property
    def auto(self) -> bool: ...
    @property
    def state_budget(self) -> int | None: ...
    @property
    def max_degradation(self) -> float | None: ...
    @property
    def memory(self) -> int | None: ...


def check_choice(spec: Asked) -> None:
    """Raise `InputError` where it is not said how layers are to be chosen, or said twice."""
    if spec.state_budget is not None and not spec.auto:
        raise InputError("--state-budget chooses the layers itself: give it with --layers auto, or without --layers")
    if spec.auto and spec.state_budget is None and spec.max_degradation is None:
        raise InputError(
            "--layers auto needs to know how many: give --state-budget, or --text and --max-degradation, or name the "
            "layers"
        )


def chosen(
    model: Model, tokens: npt.NDArray[np.int64], spec: Asked, measure: Measure | None, on_progress: Progress
) -> Conversion:
    """The model with the layers converted that were asked for, or that are found to be the right ones."""
    found = candidates(
        model,
        spec.variant,
        tokens,
        windows=spec.windows,
        layers=spec.layers,
        memory=spec.memory,
        on_progress=on_progress,
    )
    if not spec.auto:
        return found.taken(found.ranked)
    if spec.state_budget is not None:
        return within_budget(found, spec.state_budget)
    most = spec.max_degradation
    assert most is not None, "check_choice looked"
    assert measure is not None, "check_degradation looked"
    return most_that_hold(found, lambda conversion: _holds(measure(conversion.model), most))


class Measure:
    """The quality of models beside the original's, which is measured once, as is the last model."""

    def __init__(self, original: Model, tokens: npt.NDArray[np.int64], text: str, on_progress: Progress) -> None:
        self._original, self._tokens, self._text, self._on_progress = original, tokens, text, on_progress
        self._before: float | None = None
        self._last: tuple[Model, Quality] | None = None

    @property
    def identity(self) -> int:
        """What another text would differ in."""
        return zlib.crc32(self._tokens.tobytes())

    def __call__(self, model: Model) -> Quality:
        if self._last is not None and self._last[0] is model:
            return self._last[1]
        context = self._original.config.positions
        if self._before is None:
            self._on_progress("measuring the original's perplexity", None)
            self._before, _ = original_perplexity(self._original, self._tokens, context)
        self._on_progress("measuring the perplexity", None)
        after, count = original_perplexity(model, self._tokens, context)
        quality = Quality(text=self._text, tokens=count, perplexity=after, original=self._before)
        self._last = model, quality
        return quality


def _holds(quality: Quality, most: float) -> bool:
    return quality.degradation is None or quality.degradation <= most


def check_quality(quality: Quality, most: float | None) -> None:
    if most is None or quality.degradation is None or _holds(quality, most):
        return
    raise VerificationFailed(
        f"the converted model's perplexity on {quality.text} is {quality.perplexity:.2f}, the original's "
        f"{quality.original:.2f}: {quality.degradation:.1%} more, where {most:.1%} is allowed. Nothing was written. "
        f"Choose a variant with more KV heads, fewer layers (--layers auto), or calibrate on more text, or text more "
        f"like this one"
    )
