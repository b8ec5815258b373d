"""The distillation of a conversion: what leads it, what follows, what is kept of it, and whether it helped.

Where several processes were launched, the first one leads: it converts, measures and writes as it does alone. The
others wait for the student that it hands over, train it with the leader, and end.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from edgeqkv.convert import BATCH
from edgeqkv.convert.conversion import Conversion
from edgeqkv.convert.distill import Schedule, distilled
from edgeqkv.convert.processes import Processes, joined
from edgeqkv.convert.rounding import Rounding
from edgeqkv.disk.workplace import Busy, clear, workplace
from edgeqkv.errors import InputError
from edgeqkv.model.model import Model
from edgeqkv.model.weights import Weight
from edgeqkv.pipeline.corpus import Corpus
from edgeqkv.progress import Progress, silent
from edgeqkv.reading import shortened
from edgeqkv.run.perplexity import original_perplexity
from edgeqkv.settings import check_all

__all__ = ["Amount", "Distillation", "Leader", "follow", "leading"]

_AMOUNT: Final = re.compile(r"(\d{1,12})|(\d{1,12}(?:\.\d{1,12})?)([KMB])", re.IGNORECASE)
_SIZES: Final = {"K": 10**3, "M": 10**6, "B": 10**9}
_STATE: Final = "state"
_FOLDER: Final = "{}.distilling"


@dataclass(frozen=True)
class Amount:
    """How much to distil.

    Attributes:
        steps: comparisons and corrections; None where tokens are said.
        tokens: of text that is compared, in all.
        batch: windows of a step.
        rounding: what an export is going to round, for which the model is to learn.
    """

    steps: int | None = None
    tokens: int | None = None
    batch: int = BATCH
    rounding: Rounding | None = None

    @classmethod
    def parse(cls, text: str, batch: int = BATCH, rounding: Rounding | None = None) -> Amount:
        """An amount as it is written on a command line: a number of steps, or of tokens with K, M or B.

        Raises:
            InputError: it is neither.

        >>> Amount.parse("200").steps, Amount.parse("1.5M").tokens
        (200, 1500000)
        """
        found = _AMOUNT.fullmatch(text)
        if found is None:
            raise InputError(
                f"--distill {shortened(text)} is no amount; give steps (200), or tokens with K, M or B (1M)"
            )
        steps, tokens, unit = found.groups()
        if steps is not None:
            return cls(steps=int(steps), batch=batch, rounding=rounding)
        return cls(tokens=round(float(tokens) * _SIZES[unit.upper()]), batch=batch, rounding=rounding)

    def schedule(self, positions: int) -> Schedule:
        """For a model of so many positions; a step that is begun is done."""
        check_all(distill=self.steps, distill_tokens=self.tokens, distill_batch=self.batch)
        window = min(Schedule.length, positions)
        steps = self.steps if self.tokens is None else -(-self.tokens // (self.batch * window))
        assert steps is not None
        return Schedule(steps, batch=self.batch, length=window, rounding=self.rounding)


@dataclass(frozen=True)
class Distillation:
    """Perplexities on the text that was kept from it: of the closed form, and of what distillation made of that.

    Both as they are rounded, where it learned for that.
    """

    steps: int
    before: float
    after: float

    @property
    def taken(self) -> bool:
        """Whether it was better than the closed form."""
        return self.after < self.before


@dataclass
class Leader:
    """The first process, and the folder that it keeps the run's state in."""

    processes: Processes
    folder: Path
    waited_for: bool = field(default=True, init=False)

    def distil(
        self,
        teacher: Model,
        conversion: Conversion,
        corpus: Corpus,
        schedule: Schedule,
        on_progress: Progress,
    ) -> tuple[Conversion, Distillation]:
        """Distil with those that follow, and take the result if the text that was kept from it says so."""
        student = conversion.model
        if self.processes.count > 1:
            with self.processes.guarded():  # weights that are views of a file would take all of it along
                self._hand_over((_own(student), schedule))
        student = distilled(
            teacher,
            student,
            corpus.shown,
            schedule,
            processes=self.processes,
            kept=self.folder / _STATE,
            log=self.folder.with_name(f"{self.folder.name}.jsonl"),
            on_progress=on_progress,
        )
        self.processes.end()
        on_progress("validating the distillation", None)
        kept, context = corpus.kept(), teacher.config.positions
        both = [conversion.model, student]
        if schedule.rounding is not None:
            both = [schedule.rounding.stored(model, kept) for model in both]
        before, after = (original_perplexity(model, kept, context)[0] for model in both)
        result = Distillation(schedule.steps, before, after)
        return (replace(conversion, model=student) if result.taken else conversion), result

    def _hand_over(self, value: tuple[Model, Schedule] | None) -> None:
        if self.waited_for:
            self.waited_for = False
            self.processes.from_first(value)

    def dismiss(self) -> None:
        """Tell those that still wait that nothing comes."""
        if self.processes.count > 1:
            with suppress(Exception):  # one of them is gone, which is why this is called
                self._hand_over(None)

    def forget(self) -> None:
        """Remove the run's state: its result is written."""
        clear(self.folder)


@contextmanager
def leading(out: Path) -> Iterator[Leader]:
    """The leader of a distillation whose result is to be written to ``out``; what it keeps stays unless it forgets it.

    Raises:
        InputError: another process distils for the same place.
        MissingExtra: several processes were launched, and accelerate is not installed.
    """
    processes = joined()
    folder = out.with_name(_FOLDER.format(out.name))
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with workplace(folder):
            leader = Leader(processes, folder)
            try:
                yield leader
            finally:
                leader.dismiss()
    except Busy as error:
        raise InputError(f"cannot distil for {out}: {error}") from error


def follow(load: Callable[[], tuple[Model, Corpus]]) -> bool:
    """Distil with the leader, in any other process: silent, and writing nothing.

    Args:
        load: reads the teacher and the text, once there is something to do.

    Returns:
        Whether there was: the leader may have failed before.

    Raises:
        LostProcess: another process is gone.
    """
    processes = joined()
    nothing: tuple[Model, Schedule] | None = None
    with processes.guarded():
        given = processes.from_first(nothing)
    if given is None:
        return False
    student, schedule = given
    teacher, corpus = load()
    distilled(teacher, student, corpus.shown, schedule, processes=processes, on_progress=silent)
    processes.end()
    return True


def _own(model: Model) -> Model:
    return model.with_changed_weights(lambda weight: Weight(weight.name, weight.values().clone()))
