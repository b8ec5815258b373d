"""A conversion, start to end: checked before anything is computed, measured, and written if it is good enough.

Where distillation is asked for, the last twentieth of the calibration text is kept from it, and what it made is taken
only if that text says that it is better than the closed form.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from edgeqkv.bundle.manifest import Quality
from edgeqkv.checkpoints.writing import check_place, check_writable, write
from edgeqkv.convert import WINDOWS
from edgeqkv.convert.choice import check_budget
from edgeqkv.convert.conversion import Conversion
from edgeqkv.convert.distill import Schedule, distilled
from edgeqkv.convert.reach import target_of
from edgeqkv.errors import InputError
from edgeqkv.model.model import Model
from edgeqkv.pipeline.selection import Measure, check_choice, check_quality, chosen
from edgeqkv.pipeline.spec import check_degradation
from edgeqkv.progress import Progress, silent
from edgeqkv.reading import read_text
from edgeqkv.run.perplexity import original_perplexity
from edgeqkv.run.tokenizer import Tokenizer
from edgeqkv.settings import check

__all__ = ["ConvertSpec", "Converted", "Distillation", "run_convert"]

_VALIDATED: Final = 20  # one part of so many of the text is kept from distillation, and at least a window


@dataclass(frozen=True)
class ConvertSpec:
    """Everything that a user can ask of a conversion.

    Attributes:
        variant: what the model is to become, in any accepted spelling.
        calibrate: a text file like those that the model is for.
        out: the checkpoint to write, ``.pt`` or ``.safetensors``.
        tokenizer: the model's.
        text: a text file on which to measure the perplexity before and after.
        max_degradation: how much higher the perplexity may be, as a part of the original's; None: however much.
        windows: how many windows of the text are looked at.
        layers: which layers are converted; None: all. If ``auto`` is set, it is found out.
        auto: leave the layers that would lose most as they are: as many as ``state_budget`` has room for or, without
            one, as few as ``max_degradation`` allows.
        state_budget: bytes that the state of all positions may take in float16.
        memory: bytes of memory for what conversion sees and makes; the rest lies in a temporary file.
        distill: steps of distillation after it; None: none.
        overwrite: whether to replace a file at ``out``.
    """

    variant: str
    calibrate: Path
    out: Path
    tokenizer: Path | None = None
    text: Path | None = None
    max_degradation: float | None = None
    windows: int = WINDOWS
    layers: tuple[int, ...] | None = None
    auto: bool = False
    state_budget: int | None = None
    memory: int | None = None
    distill: int | None = None
    overwrite: bool = False


@dataclass(frozen=True, eq=False)
class Converted:
    """What was written, how good it is, if there was a text to tell by, and what distillation did, if it was run."""

    path: Path
    conversion: Conversion
    quality: Quality | None
    distillation: Distillation | None = None


@dataclass(frozen=True)
class Distillation:
    """Perplexities on the text that was kept from it: of the closed form, and of what distillation made of that."""

    before: float
    after: float

    @property
    def taken(self) -> bool:
        """Whether it was better than the closed form."""
        return self.after < self.before


def run_convert(model: Model, spec: ConvertSpec, on_progress: Progress = silent) -> Converted:
    """Convert a model and write it.

    Raises:
        VerificationFailed: its perplexity is too high; nothing is written.
        EdgeQKVError: the input is wrong; the subclass says in which way.
    """
    target = target_of(model, spec.variant, spec.layers)
    check_choice(spec)
    if spec.state_budget is not None:
        check_budget(model, target, spec.state_budget)
    check("windows", spec.windows)
    check("distill", spec.distill)
    check_writable(model)
    check_place(spec.out, overwrite=spec.overwrite)
    check_degradation(spec.max_degradation, spec.text)
    if spec.tokenizer is None:
        raise InputError("conversion reads a text and needs the model's tokenizer; give it with --tokenizer")
    tokenizer = Tokenizer(spec.tokenizer)
    tokenizer.check_fits(model.config.vocab_size)
    text = None if spec.text is None else _tokens(tokenizer, spec.text)
    model.check_finite()
    tokens = _tokens(tokenizer, spec.calibrate)
    measure = None if text is None or spec.text is None else Measure(model, text, spec.text.name, on_progress)
    conversion = chosen(model, tokens, spec, measure, on_progress)
    distillation = None
    if spec.distill is not None:
        conversion, distillation = _distilled(model, conversion, tokens, spec, on_progress)
    quality = None
    if measure is not None:
        quality = measure(conversion.model)
        check_quality(quality, spec.max_degradation)
    on_progress("writing", None)
    made: dict[str, Any] = {"converted_from": model.described, "calibrated_on": spec.calibrate.name}
    if distillation is not None and distillation.taken:
        made["distilled_steps"] = spec.distill
    write(conversion.model, spec.out, made=made, overwrite=spec.overwrite)
    return Converted(spec.out, conversion, quality, distillation)


def _distilled(
    teacher: Model, conversion: Conversion, tokens: npt.NDArray[np.int64], spec: ConvertSpec, on_progress: Progress
) -> tuple[Conversion, Distillation]:
    assert spec.distill is not None
    context = teacher.config.positions
    shown = len(tokens) - max(context, len(tokens) // _VALIDATED)
    student = distilled(
        teacher,
        conversion.model,
        tokens[: max(0, shown)],
        Schedule(spec.distill),
        kept=spec.out.with_name(f"{spec.out.name}.distilling"),
        log=spec.out.with_name(f"{spec.out.name}.distilling.jsonl"),
        on_progress=on_progress,
    )
    on_progress("validating the distillation", None)
    before, after = (original_perplexity(model, tokens[shown:], context)[0] for model in (conversion.model, student))
    result = Distillation(before, after)
    return (replace(conversion, model=student) if result.taken else conversion), result


def _tokens(tokenizer: Tokenizer, path: Path) -> npt.NDArray[np.int64]:
    return np.array(tokenizer.encode(read_text(path)), dtype=np.int64)
