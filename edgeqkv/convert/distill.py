"""Distillation: a converted model learns to predict as the original does, from where the closed form left it.

The loss is the Kullback-Leibler divergence from the original's distribution of the next token; the text's own tokens
are no target. All weights learn, by AdamW without decay, at a rate that falls to nothing: a high one destroys what the
closed form found.

A run can be killed at any time: it keeps its state in a file, and goes on from there to the same result.
"""

from __future__ import annotations

import json
import time
import zlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from edgeqkv.errors import InputError
from edgeqkv.model.model import Model
from edgeqkv.model.weights import Weight
from edgeqkv.progress import Progress, silent
from edgeqkv.reference.ops import TorchOps

__all__ = ["Schedule", "distilled"]

Tensor = torch.Tensor

_BETAS: Final = (0.9, 0.95)
_LARGEST_GRADIENT: Final = 1.0
_SAVE_SECONDS: Final = 30.0
_ROWS_THAT_TELL: Final = 16  # of the token table: no two teachers have the same


@dataclass(frozen=True)
class Schedule:
    """How to distil.

    Attributes:
        steps: how often to compare and correct.
        batch: windows that are compared in a step.
        length: tokens of a window, at most.
        rate: the highest learning rate, after ``warmup`` steps; from there it falls to 0 in a line.
        seed: of the choice of windows.
    """

    steps: int
    batch: int = 8
    length: int = 512
    rate: float = 3e-4
    warmup: int = 10
    seed: int = 20261125

    def rate_at(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        return self.rate * min(1.0, (step + 1) / self.warmup) * (1 - step / self.steps)


def distilled(
    teacher: Model,
    student: Model,
    tokens: npt.NDArray[np.int64],
    schedule: Schedule,
    *,
    kept: Path | None = None,
    log: Path | None = None,
    on_progress: Progress = silent,
) -> Model:
    """The student, closer to the teacher.

    Takes 16 bytes of memory for each of the student's numbers, and what is computed of ``batch · length`` tokens.

    Args:
        teacher, student: models of the same vocabulary and positions.
        tokens: a text, ``[n]`` token ids.
        schedule: how.
        kept: the file that the run's state is kept in, every half minute; if it is there, the run goes on from it.
        log: a file to which every step's loss is appended, a line of JSON each.
        on_progress: told of the progress.

    Raises:
        InputError: the text is shorter than two windows, or ``kept`` is of another run.
    """
    if schedule.steps < 1:
        raise InputError(f"{schedule.steps} steps of distillation are impossible; choose 1 or more")
    length = min(schedule.length, student.config.positions)
    if len(tokens) < 2 * length:
        raise InputError(f"distillation needs a text of {2 * length} tokens or more; there are {len(tokens)}")
    run = _Run(teacher, student, torch.from_numpy(tokens), replace(schedule, length=length))
    start = run.restore(kept) if kept is not None and kept.exists() else 0
    saved = time.monotonic()
    for step in range(start, schedule.steps):
        on_progress("distilling", step / schedule.steps)
        loss = run.step(step)
        if log is not None:
            with log.open("a", encoding="utf-8") as lines:
                lines.write(json.dumps({"step": step, "loss": loss, "rate": schedule.rate_at(step)}) + "\n")
        if kept is not None and time.monotonic() - saved >= _SAVE_SECONDS:
            run.save(kept, step + 1)
            saved = time.monotonic()
    result = run.result()
    if kept is not None:
        kept.unlink(missing_ok=True)
    return result


class _Run:
    """What a run is made of, and what of it has to be kept."""

    def __init__(self, teacher: Model, student: Model, tokens: Tensor, schedule: Schedule) -> None:
        self.teacher, self.student, self.tokens, self.schedule = teacher, student, tokens, schedule
        self.learned = {weight: weight.values().clone().detach().requires_grad_() for weight in student.weights}
        self.optimizer = torch.optim.AdamW(self.learned.values(), betas=_BETAS, weight_decay=0.0)

    def step(self, step: int) -> float:
        """Compare, and correct; the divergence before, in nats a token."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.schedule.rate_at(step)
        windows = self._windows(step)
        with torch.no_grad():
            wanted = F.log_softmax(self.teacher.network.outputs(TorchOps(), windows).flatten(0, 1), dim=-1)
        got = F.log_softmax(self.student.network.outputs(_LearningOps(self.learned), windows).flatten(0, 1), dim=-1)
        loss = F.kl_div(got, wanted, log_target=True, reduction="batchmean")
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.learned.values(), _LARGEST_GRADIENT)
        self.optimizer.step()
        return loss.item()

    def result(self) -> Model:
        """The student as it is now."""
        return self.student.with_changed_weights(lambda weight: Weight(weight.name, self.learned[weight].detach()))

    def save(self, path: Path, done: int) -> None:
        """Keep everything that the next steps depend on."""
        partial = path.with_name(f"{path.name}.partial")
        state = {
            "run": self._identity(),
            "done": done,
            "learned": [tensor.detach() for tensor in self.learned.values()],
            "optimizer": self.optimizer.state_dict(),
        }
        torch.save(state, partial)
        partial.replace(path)

    def restore(self, path: Path) -> int:
        """Go on from what was kept; how many steps are done.

        Raises:
            InputError: it is of another run.
        """
        state: dict[str, Any] = {}
        with suppress(Exception):  # whatever is wrong with it, it is not ours
            state = torch.load(path, weights_only=True)
        if state.get("run") != self._identity():
            raise InputError(f"{path} is of another distillation (or damaged); delete it to begin anew")
        with torch.no_grad():
            for tensor, was in zip(self.learned.values(), state["learned"], strict=True):
                tensor.copy_(was)
        self.optimizer.load_state_dict(state["optimizer"])
        return int(state["done"])

    def _identity(self) -> dict[str, Any]:
        """What another run would differ in."""
        table = self.teacher.network.token_table
        some = table.rows(0, min(_ROWS_THAT_TELL, table.shape[0])).values()
        return {
            **vars(self.schedule),
            "variant": str(self.student.variant),
            "parameters": self.student.parameters,
            "teacher": zlib.crc32(some.numpy().tobytes()),
            "tokens": [len(self.tokens), int(self.tokens.sum())],
        }

    def _windows(self, step: int) -> Tensor:
        """``[batch, length]``, from anywhere in the text, the same ones for the same step."""
        generator = torch.Generator().manual_seed(self.schedule.seed + step)
        length = self.schedule.length
        starts = torch.randint(len(self.tokens) - length + 1, (self.schedule.batch,), generator=generator)
        return torch.stack([self.tokens[start : start + length] for start in starts.tolist()])


class _LearningOps(TorchOps):
    """Computes with the numbers that are being learned."""

    def __init__(self, learned: Mapping[Weight, Tensor]) -> None:
        self._learned = learned

    def values(self, weight: Weight) -> Tensor:
        return self._learned[weight]
