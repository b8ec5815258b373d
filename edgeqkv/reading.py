"""What others wrote: paths that are to be files, parsers of foreign data, values out of them.

A foreign parser may raise anything. `reading` goes around the parser alone, so that whatever it raises says of the
file that it is damaged, and a fault of edgeqkv's own is never taken for the user's.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from edgeqkv.errors import CheckpointError, EdgeQKVError

__all__ = ["check_file", "is_file", "is_folder", "reading", "shortened", "shown"]

_LONGEST: Final = 80  # characters of a value in a message

_OTHER_KINDS: Final = (
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


@contextmanager
def reading(path: Path, what: str, error: type[EdgeQKVError] = CheckpointError) -> Iterator[None]:
    """Around the foreign parser of ``what``, such as ``"JSON"``: what it raises becomes an ``error`` about the file.

    Raises:
        EdgeQKVError: of the type ``error``. One that is raised inside goes through as it is.
    """
    try:
        yield
    except EdgeQKVError:
        raise
    except OSError as cause:
        raise error(f"cannot read {path}: {cause.strerror or cause}") from cause
    except Exception as cause:
        raise error(f"{path} is not {what} or is damaged: {_first_line(cause)}") from cause
    except BaseException as cause:
        if type(cause).__name__ != "PanicException":  # of libraries in Rust, which derive it from nothing better
            raise
        raise error(f"{path} is not {what} or is damaged: its parser gave up") from cause


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return shortened(lines[0], 4 * _LONGEST) if lines else type(error).__name__


def check_file(path: Path, error: type[EdgeQKVError] = CheckpointError) -> None:
    """Raise ``error`` unless the path is that of a file; a pipe or a device would be waited for, not read."""
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError) as cause:
        raise error(f"cannot read {path}: there is no file") from cause
    except (OSError, ValueError) as cause:  # too long a name, no permission; a null character
        why = cause.strerror if isinstance(cause, OSError) else cause
        raise error(f"cannot read {shortened(str(path), 2 * _LONGEST)}: {why}") from cause
    if stat.S_ISDIR(mode):
        raise error(f"cannot read {path}: it is a folder, not a file")
    if not stat.S_ISREG(mode):
        kind = next((name for is_one, name in _OTHER_KINDS if is_one(mode)), "something else")
        raise error(f"cannot read {path}: it is {kind}, not a file")


def is_file(path: str | Path) -> bool:
    """Whether there is a file; a path that the system refuses (too long, forbidden) is none."""
    return os.path.isfile(path)  # noqa: PTH113 - Path.is_file raises what the system says of such a path


def is_folder(path: str | Path) -> bool:
    """Whether there is a folder; a path that the system refuses is none."""
    return os.path.isdir(path)  # noqa: PTH112 - as above


def shown(value: object) -> str:
    """A foreign value for a message: short, whatever it is.

    >>> shown("relu"), shown(10**5000), shown([1, 2])
    ("'relu'", 'a number of about 5001 digits', 'a list')
    """
    if value is None or isinstance(value, bool | float):
        return repr(value)
    if isinstance(value, int):  # Python refuses to write out a long one
        bits = value.bit_length()
        return repr(value) if bits <= 64 else f"a number of about {1 + int(bits * 0.30103)} digits"
    if isinstance(value, str):
        return shortened(repr(value))
    kind = type(value).__name__
    return f"{'an' if kind[0] in 'aeiouAEIOU' else 'a'} {kind}"


def shortened(text: str, most: int = _LONGEST) -> str:
    """At most so many characters of a text."""
    return text if len(text) <= most else f"{text[: most - 1]}…"
