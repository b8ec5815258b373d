"""Distillation: a converted model learns to predict as the original does, from where the closed form left it.

The loss is the Kullback-Leibler divergence from the original's distribution of the next token; the text's own tokens
are no target. All weights learn, by AdamW without decay, at a rate that falls to nothing: a high one destroys what the
closed form found.

One loop serves one process and many. Which windows belong to a step is said by the step, and each process takes its
share of them, so that the same windows are compared however many processes there are. A run can be killed at any time:
it keeps its state in a file, and goes on from there to the same result.
"""

from __future__ import annotations

import time
import zlib
from contextlib import nullcontext, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from edgeqkv.convert import BATCH
from edgeqkv.convert.log import Log
from edgeqkv.convert.processes import Alone, Processes
from edgeqkv.convert.rounding import Rounding
from edgeqkv.convert.student import Student, Teacher, named
from edgeqkv.convert.windows import Text, TokenText
from edgeqkv.errors import InputError
from edgeqkv.model.model import Model
from edgeqkv.model.weights import Weight
from edgeqkv.progress import Progress, silent
from edgeqkv.units import amount

__all__ = ["Schedule", "distilled"]

Tensor = torch.Tensor

_BETAS: Final = (0.9, 0.95)
_LARGEST_GRADIENT: Final = 1.0
_SAVE_SECONDS: Final = 30.0
_ROWS_THAT_TELL: Final = 16  # of the token table: no two teachers have the same
_LOGITS_AT_ONCE: Final = 1 << 26  # of which a backward pass holds some ten copies


@dataclass(frozen=True)
class Schedule:
    """How to distil.

    Attributes:
        steps: how often to compare and correct.
        batch: windows that are compared in a step, by all processes together.
        length: tokens of a window, at most.
        rate: the highest learning rate, after ``warmup`` steps; from there it falls to 0 in a line.
        seed: of the choice of windows.
        rounding: what will be rounded of the student, so that it learns to bear that; the result is not rounded.
    """

    steps: int
    batch: int = BATCH
    length: int = 512
    rate: float = 3e-4
    warmup: int = 10
    seed: int = 20261125
    rounding: Rounding | None = None

    @property
    def tokens(self) -> int:
        """How many are compared, in all."""
        return self.steps * self.batch * self.length

    def rate_at(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        return self.rate * min(1.0, (step + 1) / self.warmup) * (1 - step / self.steps)


def distilled(
    teacher: Model,
    student: Model,
    text: Text | npt.NDArray[np.integer],
    schedule: Schedule,
    *,
    processes: Processes | None = None,
    kept: Path | None = None,
    log: Path | None = None,
    on_progress: Progress = silent,
) -> Model:
    """The student, closer to the teacher.

    Takes 16 bytes of memory for each of the student's numbers, and what is computed of a step's windows.

    Args:
        teacher, student: models of the same vocabulary and positions.
        text: what to compare them on, ``[n]`` token ids or a text of which windows are drawn.
        schedule: how.
        processes: what `joined` returned, where this is called in several processes. Of the results, only the first
            one's is whole.
        kept: the file that the run's state is kept in, every half minute and at the end; if it is there, the run goes
            on from it. It takes 12 bytes for each number, and for a moment twice that. The first process alone reads
            and writes it, and the log.
        log: a file in which every step has a line of JSON: loss (nats a token) and learning rate.
        on_progress: told of the progress.

    Raises:
        InputError: the text is shorter than two windows, ``kept`` is of another run, or the disk is full.
        LostProcess: one of several processes is gone.
    """
    if schedule.steps < 1:
        raise InputError(f"{schedule.steps} steps of distillation are impossible; choose 1 or more")
    text = text if isinstance(text, TokenText) or not isinstance(text, np.ndarray) else TokenText(text)
    schedule = replace(schedule, length=min(schedule.length, student.config.positions))
    text.check(schedule.length)
    processes = Alone() if processes is None else processes
    with processes.guarded():
        run = _Run(teacher, student, text, schedule, processes)
        start = run.restore(kept)
        with Log(log, start) if log is not None and processes.leads else nullcontext() as lines:
            saved = time.monotonic()
            for step in range(start, schedule.steps):
                on_progress(_stage(processes), step / schedule.steps)
                due = kept is not None and time.monotonic() - saved >= _SAVE_SECONDS
                loss, due = run.step(step, due or (kept is not None and step + 1 == schedule.steps))
                if lines is not None:
                    lines.record(step, loss=loss, rate=schedule.rate_at(step))
                if due:
                    run.save(kept, step + 1)
                    saved = time.monotonic()
        return run.result()


def _stage(processes: Processes) -> str:
    where = "" if processes.device.type == "cpu" else f" on {processes.device.type}"
    if type(processes) is Alone and torch.accelerator.is_available():
        where = " on the CPU (the extra 'distill' takes the GPU)"
    return f"distilling{where}" if processes.count == 1 else f"distilling{where} in {processes.count} processes"


class _Run:
    """What a run is made of, and what of it has to be kept."""

    def __init__(self, teacher: Model, student: Model, text: Text, schedule: Schedule, processes: Processes) -> None:
        self._student, self._text, self._schedule, self._processes = student, text, schedule, processes
        table = teacher.network.token_table
        some = table.rows(0, min(_ROWS_THAT_TELL, table.shape[0])).values()
        self._identity = {
            **asdict(schedule),
            "layers": [str(block.attention.variant) for block in student.network.blocks],
            "parameters": student.parameters,
            "teacher": zlib.crc32(some.numpy().tobytes()),
            "text": text.identity,
        }
        self._at_once = max(1, _LOGITS_AT_ONCE // (schedule.length * table.shape[0]))
        self._teacher = Teacher(teacher, processes.device)
        module = Student(student, schedule.rounding)
        self._module, self._optimizer = processes.prepared(
            module, torch.optim.AdamW(module.parameters(), betas=_BETAS, weight_decay=0.0)
        )

    def step(self, step: int, due: bool) -> tuple[float, bool]:
        """Compare, and correct.

        Returns:
            The divergence before, in nats a token, and whether any process says that the state is due to be kept.
        """
        for group in self._optimizer.param_groups:
            group["lr"] = self._schedule.rate_at(step)
        self._optimizer.zero_grad()
        loss = torch.zeros(())
        *pieces, last = self._pieces(step)
        for windows, weight in pieces:
            with self._processes.for_itself(self._module):
                loss += self._learned(windows, weight)
        loss += self._learned(*last)
        self._processes.clip(self._module, _LARGEST_GRADIENT)
        self._optimizer.step()
        total, wanted = self._processes.total(torch.stack([loss, torch.tensor(float(due))])).tolist()
        return total / self._processes.count, wanted > 0

    def _pieces(self, step: int) -> list[tuple[Tensor, float]]:
        """This process's windows of a step, some at a time, and the weight of each of those parts.

        Gradients become the mean over the processes, and so the mean over all windows, whether every process has as
        many of them or not. One that has none takes one for nothing: all have to take part.
        """
        batch, count, index = self._schedule.batch, self._processes.count, self._processes.index
        share = slice(index, None, count) if index < batch else slice(0, 1)
        windows = self._text.windows(self._schedule.seed + step, batch, self._schedule.length, share)
        each = count / batch if index < batch else 0.0
        parts = torch.split(windows.to(self._processes.device), self._at_once)
        return [(part, len(part) * each) for part in parts]

    def _learned(self, windows: Tensor, weight: float) -> Tensor:
        """Add to the gradients; what was added to the loss."""
        with self._processes.computing():
            wanted = F.log_softmax(self._teacher(windows).flatten(0, 1).float(), dim=-1)
            got = F.log_softmax(self._module(windows).flatten(0, 1).float(), dim=-1)
        loss = F.kl_div(got, wanted, log_target=True, reduction="batchmean") * weight
        self._processes.backward(loss)
        return loss.detach().cpu()

    def result(self) -> Model:
        """The student as it is now; elsewhere than in the first process, as it was."""
        numbers = self._processes.state(self._module, self._optimizer)["numbers"]
        if not self._processes.leads:
            return self._student
        changed = {weight: numbers[name] for name, weight in named(self._student).items()}
        return self._student.with_changed_weights(lambda weight: Weight(weight.name, changed[weight]))

    def save(self, path: Path | None, done: int) -> None:
        """Keep everything that the next steps depend on."""
        state = self._processes.state(self._module, self._optimizer)
        if path is None or not self._processes.leads:
            return
        partial = path.with_name(f"{path.name}.partial")
        try:
            torch.save({"run": self._identity, "done": done, **state}, partial)
            partial.replace(path)
        except (OSError, RuntimeError) as error:  # torch has no type of its own for a full disk
            partial.unlink(missing_ok=True)
            raise InputError(
                f"cannot keep the state of the distillation in {path.parent}, which takes "
                f"{amount(12 * self._student.parameters)} twice: {str(error).splitlines()[0]}"
            ) from error

    def restore(self, path: Path | None) -> int:
        """Go on from what was kept; how many steps are done.

        Raises:
            InputError: it is of another run.
        """
        state: dict[str, Any] | None = None
        if path is not None and self._processes.leads and path.exists():
            state = {}
            with suppress(Exception):  # whatever is wrong with it, it is not ours
                state = torch.load(path, map_location="cpu", weights_only=True)
            if state.get("run") != self._identity:
                raise InputError(f"{path} is of another distillation (or damaged); delete it to begin anew")
        done = int(self._processes.from_first(0 if state is None else int(state["done"])))
        if done:
            self._processes.restore(self._module, self._optimizer, state)
        return done
