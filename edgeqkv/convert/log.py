"""The log of a training: a line of JSON a step, and TensorBoard's own where that is installed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Protocol, Self

from edgeqkv.errors import InputError

__all__ = ["Log"]

_FOLDER: Final = ".tensorboard"


class _Board(Protocol):
    """What is used of ``torch.utils.tensorboard.SummaryWriter``."""

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> None: ...
    def close(self) -> None: ...


class Log:
    """A log that is written from some step on, as if whoever wrote it before had ended there.

    Args:
        path: the file. TensorBoard's events are in a folder beside it.
        start: the step that comes next; what is there of later ones, by a run that was killed, is dropped.

    Raises:
        InputError: another file is there.
    """

    def __init__(self, path: Path, start: int) -> None:
        kept = list(_before(path, start)) if path.exists() else []
        partial = path.with_name(f"{path.name}.partial")
        partial.write_text("".join(kept), encoding="utf-8")
        partial.replace(path)
        self._lines = path.open("a", encoding="utf-8")
        self._board = _board(path.with_suffix(_FOLDER), start)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._lines.close()
        if self._board is not None:
            self._board.close()

    def record(self, step: int, **values: float) -> None:
        """What belongs to a step."""
        self._lines.write(json.dumps({"step": step, **values}) + "\n")
        self._lines.flush()
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(f"distillation/{name}", value, step)


def _before(path: Path, start: int) -> Iterator[str]:
    """The lines of an older log that stay."""
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True):
        entry: Any = None
        with suppress(ValueError):
            entry = json.loads(line)
        if isinstance(entry, dict) and isinstance(entry.get("step"), int):
            if entry["step"] < start:
                yield line
        elif line.endswith("\n"):  # else whoever wrote it was killed there
            raise InputError(f"{path} is in the way and no log of a distillation; move it elsewhere")


def _board(folder: Path, start: int) -> _Board | None:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder), purge_step=start)
