"""A conversion, start to end: checked before anything is computed, measured, and written if it is good enough."""

from __future__ import annotations

import zlib
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from edgeqkv.bundle.manifest import Quality
from edgeqkv.checkpoints.writing import check_place, check_writable, write
from edgeqkv.convert import WINDOWS
from edgeqkv.convert.choice import check_budget
from edgeqkv.convert.conversion import Conversion
from edgeqkv.convert.distill import Schedule
from edgeqkv.convert.reach import target_of
from edgeqkv.errors import InputError
from edgeqkv.model.model import Model
from edgeqkv.pipeline.closed_form import identity_of, kept_or_made
from edgeqkv.pipeline.corpus import Corpus, corpus_of
from edgeqkv.pipeline.data_sets import text_file
from edgeqkv.pipeline.distillation import Amount, Distillation, Leader, Others, gathered, leading
from edgeqkv.pipeline.selection import Measure, check_choice, check_quality, chosen
from edgeqkv.pipeline.spec import check_degradation
from edgeqkv.progress import Progress, silent
from edgeqkv.reading import read_text
from edgeqkv.run.tokenizer import Tokenizer
from edgeqkv.settings import check

__all__ = ["ConvertSpec", "Converted", "run_convert"]

_OF_NO_CLOSED_FORM: Final = (
    "calibrate",
    "out",
    "tokenizer",
    "text",
    "max_degradation",
    "memory",
    "distill",
    "overwrite",
)
"""What can be asked for and does not change what is solved; the calibration's tokens do."""


@dataclass(frozen=True)
class ConvertSpec:
    """Everything that a user can ask of a conversion.

    Attributes:
        variant: what the model is to become, in any accepted spelling.
        calibrate: a text file like those that the model is for, or ``dataset:NAME`` (`edgeqkv.pipeline.data_sets`).
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
        distill: how much distillation comes after it; None: none.
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
    distill: Amount | None = None
    overwrite: bool = False


@dataclass(frozen=True, eq=False)
class Converted:
    """What was written, how good it is, if there was a text to tell by, and what distillation did, if it was run."""

    path: Path
    conversion: Conversion
    quality: Quality | None
    distillation: Distillation | None = None


def run_convert(
    model: Model, spec: ConvertSpec, on_progress: Progress = silent, others: Others | None = None
) -> Converted:
    """Convert a model and write it.

    Args:
        model: what to convert.
        spec: to what, and how.
        on_progress: told of the progress.
        others: the processes that wait to distil along, where somebody has `gathered` them before.

    Raises:
        VerificationFailed: its perplexity is too high; nothing is written.
        EdgeQKVError: the input is wrong; the subclass says in which way.
    """
    target = target_of(model, spec.variant, spec.layers)
    check_choice(spec)
    if spec.state_budget is not None:
        check_budget(model, target, spec.state_budget)
    check("windows", spec.windows)
    schedule = None if spec.distill is None else spec.distill.schedule(model.config.positions)
    check_writable(model)
    check_place(spec.out, overwrite=spec.overwrite)
    check_degradation(spec.max_degradation, spec.text)
    if spec.tokenizer is None:
        raise InputError("conversion reads a text and needs the model's tokenizer; give it with --tokenizer")
    tokenizer = Tokenizer(spec.tokenizer)
    tokenizer.check_fits(model.config.vocab_size)
    text = None if spec.text is None else _tokens(tokenizer, spec.text)
    model.check_finite()
    measure = None if text is None or spec.text is None else Measure(model, text, spec.text.name, on_progress)
    with ExitStack() as held:
        looked_at = max(spec.windows * Schedule.length, 0 if schedule is None else schedule.tokens)
        file = held.enter_context(text_file(spec.calibrate, looked_at))
        corpus = corpus_of(file, tokenizer, model.config.positions)
        leader = None
        if schedule is not None:
            corpus.shown.check(schedule.length)
            others = held.enter_context(gathered()) if others is None else others
            leader = held.enter_context(leading(others, spec.out, schedule, looked_at))
        conversion, distillation = _converted(model, spec, corpus, leader, measure, on_progress)
        quality = None
        if measure is not None:
            quality = measure(conversion.model)
            check_quality(quality, spec.max_degradation)
        on_progress("writing", None)
        made: dict[str, Any] = {"converted_from": model.described, "calibrated_on": spec.calibrate.name}
        if distillation is not None and distillation.taken:
            made["distilled_steps"] = distillation.steps
        write(conversion.model, spec.out, made=made, overwrite=spec.overwrite)
        if leader is not None:
            leader.forget()
    return Converted(spec.out, conversion, quality, distillation)


def _converted(
    model: Model,
    spec: ConvertSpec,
    corpus: Corpus,
    leader: Leader | None,
    measure: Measure | None,
    on_progress: Progress,
) -> tuple[Conversion, Distillation | None]:
    """The closed form, and what distillation made of it where somebody leads one."""
    tokens = corpus.tokens(spec.windows)

    def closed_form() -> Conversion:
        return chosen(model, tokens, spec, measure, on_progress)

    if leader is None:
        return closed_form(), None
    asked = {name: value for name, value in vars(spec).items() if name not in _OF_NO_CLOSED_FORM}
    if spec.auto and spec.state_budget is None and measure is not None:  # then they choose the layers
        asked |= {"max_degradation": spec.max_degradation, "text": measure.identity}
    identity = identity_of(model, tokens=zlib.crc32(tokens.tobytes()), **asked)
    return leader.distil(model, kept_or_made(leader.folder, identity, closed_form), corpus, on_progress)


def _tokens(tokenizer: Tokenizer, path: Path) -> npt.NDArray[np.int64]:
    return np.array(tokenizer.encode(read_text(path)), dtype=np.int64)
