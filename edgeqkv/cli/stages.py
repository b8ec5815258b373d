"""Where a long job is: its stage, how long that has taken, and how long it will still take."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

from rich.console import Console
from rich.text import Text

from edgeqkv.units import duration

__all__ = ["Said", "Shown", "remaining"]

_LONG: Final = 2.0  # seconds from which on people want to know
_EVERY: Final = 30.0  # seconds between two lines of one stage
_LEAST: Final = 0.02  # of a stage, which is enough to foretell the rest


def remaining(elapsed: float, fraction: float | None) -> float | None:
    """Seconds that a stage will still take, if it goes on as it went; None where nothing tells.

    >>> remaining(10.0, 0.25), remaining(10.0, None), remaining(0.1, 0.5)
    (30.0, None, None)
    """
    if fraction is None or fraction < _LEAST or elapsed < 1:
        return None
    return elapsed * max(1 - fraction, 0.0) / fraction


def _clock(seconds: float) -> str:
    """A time in whole seconds."""
    return f"{seconds:.0f} s" if seconds < 10 else duration(seconds)


class _Stages:
    """The stage that a job is in."""

    def __init__(self) -> None:
        self.stage, self.fraction, self.since = "", None, time.monotonic()
        self.told = self.since
        self._lock = threading.RLock()

    stage: str
    fraction: float | None

    def report(self, stage: str, fraction: float | None = None) -> None:
        """`edgeqkv.progress.Progress`."""
        with self._lock:
            if stage != self.stage:
                self.end()
                self.stage, self.since = stage, time.monotonic()
                self.begin()
            if fraction is not None:
                self.told = time.monotonic()
            self.fraction = fraction

    def begin(self) -> None:
        """Say that a stage began."""

    def end(self) -> None:
        """Say how long a stage took, if it was long."""

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self.since

    def where(self) -> str:
        """How far the stage is, in words: nothing while it is young."""
        elapsed, words = self.elapsed, []
        if self.fraction is not None:
            words.append(f"{self.fraction:.0%}")
        if elapsed >= _LONG:
            words.append(_clock(elapsed))
            ago = time.monotonic() - self.told  # the part that is done is of then
            left = remaining(elapsed - ago, self.fraction)
            words += [f"about {_clock(left - ago)} left"] if left is not None and left - ago >= 1 else []
        return ", ".join(words)


class Shown(_Stages):
    """On a terminal: a line with a spinner, which is drawn anew all the time.

    Args:
        console: the terminal.
        plain: what takes out of a stage's name what would steer it.
    """

    def __init__(self, console: Console, plain: Callable[[object], str]) -> None:
        super().__init__()
        self._console, self._plain = console, plain
        self._status = console.status(self)

    def __rich__(self) -> Text:
        where = self.where()
        text = Text(self._plain(self.stage or "starting"))
        if where:
            text.append(f"  {where}", style="dim")
        text.truncate(max(self._console.width - 4, 8), overflow="ellipsis")
        return text

    def __enter__(self) -> Self:
        self._status.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if kind is None:
            self.end()
        self._status.stop()

    def end(self) -> None:
        if self.stage and self.elapsed >= _LONG:
            self._console.print(
                Text(f"{self._plain(self.stage)}  {duration(self.elapsed)}", style="dim"), soft_wrap=False
            )


class Said(_Stages):
    """Elsewhere: a line for every stage, one every half a minute, and one when it ends.

    Args:
        say: what prints a line.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        super().__init__()
        self._say = say
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._now_and_then, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._ended.set()
        self._thread.join()
        if kind is None:
            self.end()

    def begin(self) -> None:
        self._said = time.monotonic()
        self._say(self.stage)

    def end(self) -> None:
        if self.stage and self.elapsed >= _LONG:
            self._say(f"{self.stage}: took {duration(self.elapsed)}")

    def _now_and_then(self) -> None:
        while not self._ended.wait(1.0):
            with self._lock:
                if self.stage and time.monotonic() - self._said >= _EVERY:
                    self._said = time.monotonic()
                    self._say(f"{self.stage}: {self.where()}")
