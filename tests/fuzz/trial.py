"""One command, run in this process in a folder of its own, and what was wrong with how it went."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import signal
import stat
import sys
import tempfile
import traceback
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from edgeqkv.bundle.bundle import Bundle
from edgeqkv.cli.app import main as edgeqkv
from edgeqkv.errors import EdgeQKVError

__all__ = ["Case", "Outcome", "Place", "run"]

LONGEST: Final = 4000
"""Characters of an error: a person has to read it."""

MEMORY: Final = 1 << 30
"""Bytes by which a process may grow that reads files of a megabyte at most."""


@dataclass
class Case:
    """What to run.

    Attributes:
        arguments: of the command line.
        may_write: what may be made or changed in the folder, by its first name: ``--out`` and ``--html``.
        may_read: files outside of the folder that the command reads.
    """

    arguments: list[str]
    may_write: set[str] = field(default_factory=set)


@dataclass
class Outcome:
    """How it ended, and what was wrong: each problem begins with its kind and a colon."""

    ended: str
    problems: list[str] = field(default_factory=list)


class Place:
    """A folder for cases, one after the other: ``here``, in which a command runs, what is beside it, and its outputs.

    The folder is made anew for each.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.around = folder / "around"
        self.here = self.around / "here"
        self.temporary = folder / "tmp"
        self.canary = folder / "canary"
        self._streams = [os.open(folder / name, os.O_RDWR | os.O_CREAT) for name in ("out.log", "err.log")]
        self.temporary.mkdir(exist_ok=True)
        os.environ["TMPDIR"] = str(self.temporary)
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder / "torch")  # which torch makes once for all processes
        os.environ["HOME"] = os.environ["XDG_CACHE_HOME"] = str(self.temporary)
        tempfile.tempdir = None
        for number, stream in zip((1, 2), self._streams, strict=True):
            os.dup2(stream, number)
        self.most = 0

    def clear(self) -> None:
        os.chdir(self.folder)
        if self.around.exists():
            for each in self.around.rglob("*"):
                if each.is_dir() and not each.is_symlink():
                    each.chmod(0o700)
        shutil.rmtree(self.around, ignore_errors=True)
        shutil.rmtree(self.temporary, ignore_errors=True)
        self.canary.unlink(missing_ok=True)
        self.here.mkdir(parents=True)
        self.temporary.mkdir(exist_ok=True)
        os.chdir(self.here)
        for stream in self._streams:
            os.ftruncate(stream, 0)
            os.lseek(stream, 0, os.SEEK_SET)

    def printed(self) -> tuple[bytes, bytes]:
        return tuple(os.pread(each, 1 << 22, 0) for each in self._streams)  # type: ignore[return-value]

    def contents(self) -> dict[str, Any]:
        """Everything in the folder: what it is, and its bytes."""
        found = {}
        for each in sorted(self.around.rglob("*")):
            mode = each.lstat().st_mode
            if stat.S_ISLNK(mode):
                held: Any = str(each.readlink())
            else:
                held = each.read_bytes() if stat.S_ISREG(mode) else stat.S_IFMT(mode)
            found[os.fsencode(each.relative_to(self.around)).decode("utf-8", "backslashreplace")] = held
        return found


def run(place: Place, case: Case) -> Outcome:
    """Run a case whose files are in the place already."""
    before = place.contents()
    ended, problems = _call(case.arguments)
    out, err = (each.decode("utf-8", "replace") for each in place.printed())
    problems += _of_streams(case, ended, out, err)
    os.chdir(place.folder)
    problems += _of_files(place, case, before, ended)
    if place.canary.exists():
        problems.append("executed: code of the input was run")
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if place.most and most > place.most + MEMORY:
        problems.append(f"memory: {(most - place.most) >> 20} MiB more")
    place.most = max(place.most, most)
    return Outcome(f"exit {ended}" if isinstance(ended, int) else ended, problems)


def _call(arguments: list[str]) -> tuple[int | str, list[str]]:
    sys.argv = ["edgeqkv", *arguments]
    warnings.simplefilter("default")
    for hidden in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
        warnings.simplefilter("ignore", hidden)  # as Python does by itself
    try:
        edgeqkv()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        return code, [] if code in (0, 1, 2) else [f"exit code: {code}"]
    except BaseException as error:
        where = traceback.extract_tb(error.__traceback__)
        own = next((each for each in reversed(where) if "/edgeqkv/" in each.filename), where[-1])
        place = f"{Path(own.filename).name}:{own.lineno}"
        return "raised", [f"traceback: {type(error).__name__} at {place}: {str(error)[:300]!r}"]
    return "returned", ["exit code: none"]


def _of_streams(case: Case, ended: int | str, out: str, err: str) -> list[str]:
    problems = []
    if "Traceback (most recent call last)" in out + err:
        problems.append(f"traceback: printed: {err[-300:]!r}")
    if "panicked at" in err:
        problems.append(f"panic: {err[:300]!r}")
    if found := re.search(r"^.*\b\w*Warning: .*$", err, re.MULTILINE):
        problems.append(f"warning: {found[0][:300]!r}")
    told = [line for line in err.splitlines() if line.startswith("error: ")]
    if ended == 2 and len(told) != (0 if case.arguments == [] else 1) and "Usage: " not in err + out:
        problems.append(f"message: exit code 2, and said was {err[-300:]!r}")
    problems += [f"message: of {len(line)} characters: {line[:200]!r}" for line in told if len(line) > LONGEST]
    if "--json" in case.arguments and ended in (0, 1, 2) and not {"--help", "--help-all"} & {*case.arguments}:
        try:
            json.loads(out, parse_constant=_no_constant)
        except ValueError as error:
            problems.append(f"json: {error}: {out[:200]!r}")
    return problems


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _of_files(place: Place, case: Case, before: dict[str, Any], ended: int | str) -> list[str]:
    after, problems = place.contents(), []
    written = {f"here/{each}" for each in case.may_write}
    for each in sorted(before.keys() | after.keys()):
        if before.get(each) == after.get(each):
            continue
        ours = any(each == name or each.startswith(f"{name}/") for name in written)
        if ended in (0, 1) and ours:
            continue
        how = "lost" if each not in after else "changed" if each in before else "left over"
        problems.append(f"files: {each[:100]!r} {how}")
    problems += [f"files: {each.name!r} left over among temporary files" for each in place.temporary.iterdir()]
    if ended == 0 and "export" in case.arguments[:1]:
        for each in case.may_write:
            if (place.here / each / "manifest.json").exists():
                try:
                    Bundle(place.here / each)
                except EdgeQKVError as error:
                    problems.append(f"files: the bundle that was written: {error}")
    return problems


def limit() -> None:
    """For a process that runs cases: no core files, an end to what it may allocate, and default signals."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGINT, signal.SIG_DFL)
