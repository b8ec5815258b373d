"""Folders to work in, which show to everybody whether who made them is still there.

A workplace holds a file that is locked for as long as its maker lives. Whoever can take the lock of an existing one
knows that its maker is dead, however it died, and that what lies in it is left over. The system gives locks back with
the process that held them, so that nothing depends on process ids, which are used again.

    .phone.edgeqkv/          beside build/phone, for what is to take its place
        lock                 "edgeqkv 4711", locked by process 4711
        …
    /tmp/edgeqkv-….scratch/  for what a process hands to another, or to nobody
"""

from __future__ import annotations

import gc
import os
import shutil
import stat
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from edgeqkv.errors import InputError

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

__all__ = ["Busy", "beside", "clear", "made_beside", "scratch", "sweep", "temporary_files_together", "workplace"]

_LOCK: Final = "lock"
_SIGN: Final = b"edgeqkv "
_ENDING: Final = ".edgeqkv"
_SCRATCH: Final = ("edgeqkv-", ".scratch")
_BEYOND: Final = 1 << 20


class Busy(Exception):
    """Somebody else works there; the message says who, and ends in what can be done about it."""


def beside(place: Path) -> Path:
    """The folder in which what is to stand at ``place`` is made: on the same disk, so that it can be renamed."""
    return place.with_name(f".{place.name}{_ENDING}")


def made_beside(folder: Path) -> str:
    """The name of the place that a folder is `beside`."""
    return folder.name.removeprefix(".").removesuffix(_ENDING)


def clear(folder: Path) -> None:
    """Remove all but the lock."""
    for entry in folder.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry, ignore_errors=True)
        elif entry.name != _LOCK:
            entry.unlink(missing_ok=True)


@contextmanager
def workplace(folder: Path) -> Iterator[Path]:
    """The folder, made or taken over from a dead one, whose things may lie in it. Afterwards it is gone if it is empty.

    Raises:
        Busy: somebody works there, or it is no workplace.
        OSError: the disk refuses.
    """
    claim = _claim(folder)
    try:
        yield folder
    finally:
        _release(folder, claim)


@contextmanager
def scratch() -> Iterator[Path]:
    """A temporary folder that is gone afterwards; those of dead processes are removed too.

    Raises:
        InputError: none can be made.
    """
    try:
        folder, claim = _scratch()
    except OSError as error:
        raise InputError(
            f"cannot make temporary files: {error.strerror or error}; set TMPDIR to a folder with room"
        ) from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        _release(folder, claim)


def _scratch() -> tuple[Path, int]:
    prefix, suffix = _SCRATCH
    sweep(Path(tempfile.gettempdir()), f"{prefix}*{suffix}", clear)
    while True:
        folder = Path(tempfile.mkdtemp(prefix=prefix, suffix=suffix))
        with suppress(Busy):  # another one's sweep took it for a dead one, before it was locked
            return folder, _claim(folder, 0o700)


@contextmanager
def temporary_files_together() -> Iterator[None]:
    """Inside, whatever makes temporary files in this process or its children makes them in one scratch folder.

    So what libraries leave behind when they are killed is known to be ours. For processes of our own alone: it sets
    `tempfile.tempdir` and ``TMPDIR``.
    """
    with scratch() as folder:
        before, variable = tempfile.tempdir, os.environ.get("TMPDIR")
        tempfile.tempdir = os.environ["TMPDIR"] = str(folder)
        try:
            yield
        except BaseException as error:
            _let_go(error)
            raise
        finally:
            tempfile.tempdir = before
            if variable is None:
                del os.environ["TMPDIR"]
            else:
                os.environ["TMPDIR"] = variable


def _let_go(error: BaseException) -> None:
    """Free what functions that failed still hold: temporary files, which would later miss their folder and say so.

    Of the error's causes the tracebacks go, too: they keep functions alive, and what those hold.
    """
    traceback.clear_frames(error.__traceback__)
    cause = error.__cause__ or error.__context__
    while cause is not None:
        cause.__traceback__ = None
        cause = cause.__cause__ or cause.__context__
    gc.collect()


def sweep(parent: Path, pattern: str, recover: Callable[[Path], None]) -> None:
    """Remove the workplaces in ``parent`` that are ours and dead; ``recover`` takes out what lies in one.

    Those that are not surely so are left alone, as is what cannot be removed: this is nobody's task but a service.
    """
    for folder in parent.glob(pattern):
        with suppress(Busy, OSError):
            if _is_ours(folder):
                with workplace(folder):
                    recover(folder)


def _is_ours(folder: Path) -> bool:
    """Whether it is a workplace of this user, locked or not."""
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or (sys.platform != "win32" and status.st_uid != os.geteuid()):
        return False
    names = {entry.name for entry in folder.iterdir()}
    if _LOCK not in names:
        return not names  # made a moment ago, or being removed
    lock = folder / _LOCK
    return not lock.is_symlink() and lock.is_file() and lock.read_bytes()[: len(_SIGN)] in (_SIGN, b"")


def _claim(folder: Path, mode: int = 0o777) -> int:
    """Make or take over a workplace: the open file whose lock says that somebody is there."""
    while True:
        made = _make(folder, mode)
        try:
            if not _is_ours(folder):
                raise Busy(f"{folder} is in the way, which edgeqkv did not make: move it elsewhere")
            file = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o600)
        except FileNotFoundError:  # who worked there has just removed it
            continue
        try:
            _lock(file, folder, made)
        except BaseException:
            os.close(file)
            raise
        if _is_still(file, folder / _LOCK):
            try:
                os.ftruncate(file, 0)
                os.write(file, _SIGN + str(os.getpid()).encode())
            except BaseException:
                _release(folder, file)
                raise
            return file
        os.close(file)


def _make(folder: Path, mode: int) -> bool:
    try:
        folder.mkdir(mode)
    except FileExistsError:
        return False
    return True


def _release(folder: Path, claim: int) -> None:
    """Give a workplace up. What is in it stays, and its lock with it, so that the next one knows whose it is."""
    if sys.platform == "win32":  # where no open file can be removed
        os.close(claim)
    with suppress(OSError):
        if [entry.name for entry in folder.iterdir()] == [_LOCK]:
            (folder / _LOCK).unlink()
        folder.rmdir()
    if sys.platform != "win32":
        os.close(claim)


def _lock(file: int, folder: Path, made: bool) -> None:
    """Take an open file's lock. Where there are no locks, only a folder that was just ``made`` is surely free."""
    try:
        if sys.platform == "win32":
            os.lseek(file, _BEYOND, os.SEEK_SET)  # such locks keep others from reading
            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
            os.lseek(file, 0, os.SEEK_SET)
        else:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError) as error:
        raise Busy(f"{_owner(file)} is at work in {folder}: let it finish") from error
    except OSError as error:
        if not made:
            raise Busy(f"{folder} is there, and nothing tells whether it is in use: remove it if it is not") from error


def _owner(file: int) -> str:
    with suppress(OSError):
        os.lseek(file, 0, os.SEEK_SET)
        number = os.read(file, 32).removeprefix(_SIGN).decode(errors="replace")
        if number.isdigit():
            return f"another edgeqkv (process {number})"
    return "another edgeqkv"


def _is_still(file: int, path: Path) -> bool:
    """Whether an open file is what stands at ``path``: between opening and locking, its owner may have removed it."""
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        return False
