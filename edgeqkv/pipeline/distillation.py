"""The distillation of a conversion: what leads it, what follows, what is kept of it, and whether it helped.

Where several processes were launched, the first one leads: it converts, measures and writes as it does alone. The
others wait for the student that it hands over, train it with the leader, and end.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
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
from edgeqkv.pipeline.corpus import Corpus, corpus_of
from edgeqkv.pipeline.data_sets import text_file
from edgeqkv.pipeline.spec import tokenizer_beside
from edgeqkv.progress import Progress
from edgeqkv.reading import shortened
from edgeqkv.run.perplexity import original_perplexity
from edgeqkv.run.tokenizer import Tokenizer
from edgeqkv.settings import check_all

__all__ = ["Amount", "Distillation", "Leader", "Others", "follow", "gathered", "leading"]

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


@dataclass(frozen=True)
class _Work:
    """What the first process hands over to the others."""

    student: Model
    schedule: Schedule
    looked_at: int


class Others:
    """The processes that wait for the first one to have something for them to do; often there are none."""

    def __init__(self, processes: Processes) -> None:
        self.processes = processes
        self._waiting = processes.count > 1

    def set_to(self, work: _Work) -> None:
        """Have them train along from here on."""
        if self._waiting:
            self._waiting = False
            with self.processes.guarded():
                self.processes.from_first(work)

    def dismiss(self) -> None:
        """Tell those that still wait that nothing comes."""
        if self._waiting:
            self._waiting = False
            with suppress(Exception):  # one of them is gone, which is why this is called
                self.processes.from_first(None)


@dataclass(frozen=True)
class Leader:
    """The first process.

    Attributes:
        others: those that follow.
        folder: what the run's state is kept in.
        schedule: how it is distilled.
        looked_at: tokens of the text, at most.
    """

    others: Others
    folder: Path
    schedule: Schedule
    looked_at: int

    def distil(
        self, teacher: Model, conversion: Conversion, corpus: Corpus, on_progress: Progress
    ) -> tuple[Conversion, Distillation]:
        """Distil with those that follow, and take the result if the text that was kept from it says so."""
        student, processes = conversion.model, self.others.processes
        if processes.count > 1:
            self.others.set_to(_Work(_own(student), self.schedule, self.looked_at))
        student = distilled(
            teacher,
            student,
            corpus.shown,
            self.schedule,
            processes=processes,
            kept=self.folder / _STATE,
            log=self.folder.with_name(f"{self.folder.name}.jsonl"),
            on_progress=on_progress,
        )
        processes.end()
        on_progress("validating the distillation", None)
        kept, context = corpus.kept(), teacher.config.positions
        both, rounding = (conversion.model, student), self.schedule.rounding
        if rounding is not None:
            both = (rounding.stored(both[0], kept), rounding.stored(both[1], kept))
        before, after = (original_perplexity(model, kept, context)[0] for model in both)
        result = Distillation(self.schedule.steps, before, after)
        return (replace(conversion, model=student) if result.taken else conversion), result

    def forget(self) -> None:
        """Remove the run's state: its result is written."""
        clear(self.folder)


@contextmanager
def gathered() -> Iterator[Others]:
    """The other processes, from before anything can fail: if it does, they are dismissed.

    Raises:
        MissingExtra: several processes were launched, and accelerate is not installed.
        InputError: they do not find each other.
    """
    others = Others(joined())
    try:
        yield others
    finally:
        others.dismiss()


@contextmanager
def leading(others: Others, out: Path, schedule: Schedule, looked_at: int) -> Iterator[Leader]:
    """The leader of a distillation whose result is to be written to ``out``; what it keeps stays unless it forgets it.

    Raises:
        InputError: another process distils for the same place.
    """
    folder = out.with_name(_FOLDER.format(out.name))
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with workplace(folder):
            yield Leader(others, folder, schedule, looked_at)
    except Busy as error:
        raise InputError(f"cannot distil for {out}: {error}") from error


def follow(load: Callable[[], Model], calibrate: Path, tokenizer: Path | None) -> bool:
    """Distil with the leader, in any other process: silent, and writing nothing.

    Args:
        load: reads the teacher, once there is something to do.
        calibrate, tokenizer: as the leader has them.

    Returns:
        Whether there was something to do: the leader may have failed before.

    Raises:
        LostProcess: another process is gone.
        EdgeQKVError: something is wrong here that the leader has not seen.
    """
    processes = joined()
    nothing: _Work | None = None
    with processes.guarded():
        work = processes.from_first(nothing)
    if work is None:
        return False
    teacher = load()
    file = tokenizer_beside(teacher) if tokenizer is None else tokenizer
    if file is None:
        raise InputError("the model's tokenizer is not on this machine")
    with text_file(calibrate, work.looked_at) as path:
        corpus = corpus_of(path, Tokenizer(file), teacher.config.positions)
        distilled(teacher, work.student, corpus.shown, work.schedule, processes=processes)
    processes.end()
    return True


def _own(model: Model) -> Model:
    """The model with numbers of its own: one that is a view of a file would take all of that along."""
    return model.with_changed_weights(lambda weight: Weight(weight.name, weight.values().clone()))
