"""``edgeqkv`` with arguments: in a process of its own, as a user runs it, or in this one.

The latter goes through the same entry point, and spares a test seconds of imports. What a command in turn starts are
processes all the same.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import chdir, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from edgeqkv.cli import app

__all__ = ["Done", "run_apart", "run_here"]


@dataclass(frozen=True)
class Done:
    """How a command ended, what it printed, and what it said of errors and progress."""

    returncode: int
    stdout: str
    stderr: str


def run_apart(*arguments: object, cwd: Path | None = None, module: str = "edgeqkv", strict: bool = False) -> Done:
    """In a process of its own; ``strict``: a warning is an error."""
    command = [sys.executable, *(["-W", "error"] if strict else []), "-m", module, *map(str, arguments)]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    return Done(done.returncode, done.stdout, done.stderr)


def run_here(*arguments: object, cwd: Path | None = None, strict: bool = False) -> Done:
    """In this process, whose streams are files meanwhile."""
    given = sys.argv
    noted = nullcontext() if strict else warnings.catch_warnings(action="ignore")
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        try:
            sys.argv = ["edgeqkv", *map(str, arguments)]
            with chdir(cwd or Path.cwd()), noted, _led_to(1, "stdout", out), _led_to(2, "stderr", err):
                app.main()
        except SystemExit as end:
            code = end.code
        finally:
            sys.argv = given
        assert isinstance(code, int)
        return Done(code, _text(out), _text(err))


@contextmanager
def _led_to(number: int, name: str, file: IO[bytes]) -> Iterator[None]:
    """Inside, one of the process's streams leads to a file, what libraries write without Python included."""
    before, kept = getattr(sys, name), os.dup(number)
    before.flush()
    os.dup2(file.fileno(), number)
    stream = io.TextIOWrapper(os.fdopen(number, "wb", closefd=False), encoding="utf-8", write_through=True)
    setattr(sys, name, stream)
    try:
        yield
    finally:
        setattr(sys, name, before)
        stream.close()
        os.dup2(kept, number)
        os.close(kept)


def _text(file: IO[Any]) -> str:
    file.seek(0)
    return str(file.read().decode().replace("\r\n", "\n"))
