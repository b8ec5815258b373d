"""Writing a single file that a user named: whole or not at all, and never over what is not ours to replace."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from edgeqkv.disk.atomic import rename_new
from edgeqkv.disk.workplace import Busy, clear, sweep, workplace
from edgeqkv.errors import InputError

__all__ = ["check_place", "write_text", "written_beside"]

_HEAD: Final = 4096
_WORKPLACE: Final = ".{}.edgeqkv-file"  # not a bundle's, in which an old bundle may lie
_OPEN_FILES: Final = ("/dev/fd/", "/proc/")


def check_place(path: Path, mark: bytes, inputs: Sequence[Path] = ()) -> None:
    """Refuse a place that a file must not be written to.

    Args:
        path: the place.
        mark: what stands in the first 4 KiB of every file of this kind that edgeqkv wrote, and in no other. Such a
            file may be replaced.
        inputs: the files and folders that the command reads, none of which it may change.

    Raises:
        InputError: a folder, an input or a file of somebody else's is there, or no folder to write it in.
    """
    try:
        _check(_meant(path), mark, inputs)
    except OSError as error:
        raise _refused(path, error) from error


def _check(path: Path, mark: bytes, inputs: Sequence[Path]) -> None:
    if not path.parent.is_dir():
        raise InputError(f"cannot write {path}: there is no folder {path.parent}")
    if path.is_dir():
        raise InputError(f"cannot write {path}: it is a folder; name a file")
    for each in inputs:
        if _is_of(path, each):
            raise InputError(f"{path} is what this command reads ({each}), so it is not written to; name another file")
    if path.is_file() and not _is_stream(path):
        with path.open("rb") as file:
            head = file.read(_HEAD)
        if head and mark not in head:
            raise InputError(
                f"{path} exists and was not written by edgeqkv, so it is not replaced; name another file, or remove it"
            )


_ESCAPED: Final = "backslashreplace"
"""What becomes of the bytes of a file's name that are no UTF-8: what the terminal shows of them."""


def write_text(path: Path, text: str, mark: bytes, inputs: Sequence[Path] = ()) -> None:
    """Write a file in UTF-8, beside its place and then into it; pipes and devices are written to as they are.

    A symbolic link stays one: the file that it leads to is written. What a file may do (its mode) stays as it was.

    Args:
        path, mark, inputs: see `check_place`.
        text: what to write; holds ``mark`` near its beginning.

    Raises:
        InputError: as `check_place`, or the disk refuses. What was there is still there.
    """
    check_place(path, mark, inputs)
    try:
        if _is_stream(path):
            # The shell's >> appends to what /dev/stdout leads to.
            with path.open("a", encoding="utf-8", errors=_ESCAPED) as stream:
                stream.write(text)
            return
        place = _meant(path)
        with written_beside(place, lambda: _check(place, mark, inputs)) as new:
            new.write_text(text, encoding="utf-8", errors=_ESCAPED)
    except Busy as error:
        raise InputError(f"cannot write {path}: {error}") from error
    except OSError as error:
        raise _refused(path, error) from error


@contextmanager
def written_beside(place: Path, check: Callable[[], None] = lambda: None) -> Iterator[Path]:
    """The path of a file to write, which takes its place if all goes well, and of which nothing stays if not.

    Args:
        place: where it is to stand.
        check: looks, before a file is replaced, whether that may still be done.

    Raises:
        Busy: another process writes there.
        OSError: the disk refuses, or a file has come to a place that was free.
    """
    sweep(place.parent, _WORKPLACE.format("*"), clear)
    with workplace(place.with_name(_WORKPLACE.format(place.name))) as folder:
        try:
            mode = stat.S_IMODE(place.stat().st_mode) if place.exists() else None
            new = folder / "new"
            yield new
            if mode is None:
                rename_new(new, place)
            else:
                check()  # once more, for what happened meanwhile
                new.chmod(mode)
                new.replace(place)
        finally:
            clear(folder)


def _refused(path: Path, error: OSError) -> InputError:
    return InputError(f"cannot write {path}: {error.strerror or error}")


def _meant(path: Path) -> Path:
    """The file that a symbolic link leads to, whether there is one yet or not; other paths as they are."""
    return path.resolve() if path.is_symlink() and not _is_stream(path) else path


def _is_stream(path: Path) -> bool:
    """Whether it is written to as it is: a pipe, a device, or a name of a file that is already open."""
    name = os.fspath(path.absolute())
    if name in ("/dev/stdout", "/dev/stderr") or name.startswith(_OPEN_FILES):
        return True
    return path.exists() and not (path.is_file() or path.is_dir())


def _is_of(path: Path, source: Path) -> bool:
    """Whether a place is an input, by whatever name, or inside one."""
    if source.is_dir():
        return path.resolve().is_relative_to(source.resolve())
    return path.exists() and source.exists() and path.samefile(source)
