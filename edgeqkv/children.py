"""Processes of edgeqkv's own, none of which outlives the one that started it, and an orderly end for that one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import IO, Final

__all__ = ["end_with_parent", "orderly_end", "running"]

_ASKED_TO_END: Final = tuple(filter(None, (getattr(signal, name, None) for name in ("SIGTERM", "SIGHUP"))))


@contextmanager
def running(
    command: Sequence[str], environment: Mapping[str, str], errors: int | IO[str], folder: Path
) -> Iterator[subprocess.Popen[str]]:
    """A process in a folder, whose output is a pipe. It ends with the block at the latest, if need be by force.

    Its input is a pipe as well, which it never gets anything from: `end_with_parent` waits for its end there, which
    comes when this process dies, however it does.
    """
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, stdin=pipe, stdout=pipe, stderr=errors, text=True, env=environment, cwd=folder
    ) as process:
        try:
            yield process
            process.wait()  # before its input is closed, which would end it
        except BaseException:
            process.kill()
            raise


def end_with_parent() -> None:
    """In a process that was started with `running`: end at once when the one that started it does."""
    threading.Thread(target=_end_after_input, daemon=True).start()


def _end_after_input() -> None:
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))  # Windows has but one way


@contextmanager
def orderly_end() -> Iterator[None]:
    """Inside, being told to end (SIGTERM, or SIGHUP from a terminal that closes) raises `SystemExit`.

    So folders are removed and processes ended as they are after an error. The exit code is a shell's, 128 and the
    signal's number. For the main thread of a program of our own: how to end is not a library's to say.
    """
    before = {number: signal.getsignal(number) for number in _ASKED_TO_END}
    asked = [number for number, handler in before.items() if handler == signal.SIG_DFL]  # nohup ignores SIGHUP
    for number in asked:
        signal.signal(number, _end)
    try:
        yield
    finally:
        for number in asked:
            signal.signal(number, before[number])


def _end(number: int, _frame: FrameType | None) -> None:
    sys.exit(128 + number)
