"""What others wrote: paths that are to be files, parsers of foreign data, values out of them.

A foreign parser may raise anything, down to the panics of a Rust library, which are no `Exception`. `reading` and
`parsed` go around the parser alone, so that whatever it raises says of the file that it is damaged, and a fault of
edgeqkv's own is never taken for the user's.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from edgeqkv.errors import CheckpointError, EdgeQKVError, InputError

__all__ = [
    "check_file",
    "is_file",
    "is_folder",
    "of_field",
    "parsed",
    "read_json",
    "read_text",
    "reading",
    "shortened",
    "shown",
]

_LONGEST: Final = 80  # characters of a value in a message

_OTHER_KINDS: Final = (
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


@contextmanager
def parsed(complaint: str, remedy: str = "", error: type[EdgeQKVError] = InputError) -> Iterator[None]:
    """Inside, whatever a parser raises becomes an ``error``: ``complaint``, what the parser said, and ``remedy``.

    Errors of ours and the user's interruption pass.
    """
    try:
        yield
    except (EdgeQKVError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as raised:  # the panics of libraries in Rust are no Exceptions
        end = f". {remedy}" if remedy else ""
        raise error(f"{complaint}: {_reason(raised)}{end}") from raised


@contextmanager
def reading(path: Path, what: str, error: type[EdgeQKVError] = CheckpointError) -> Iterator[None]:
    """Around the foreign parser of ``what``, such as ``"JSON"``: what it raises becomes an ``error`` about the file.

    Raises:
        EdgeQKVError: of the type ``error``. One that is raised inside goes through as it is.
    """
    with parsed(f"{path} is not {what} or is damaged", error=error):
        try:
            yield
        except OSError as cause:
            raise error(f"cannot read {path}: {_reason(cause)}") from cause


def _reason(error: BaseException) -> str:
    """The first line of what an error says, of a bearable length."""
    said = str(error.strerror if isinstance(error, OSError) and error.strerror else error).strip()
    return shortened(said.splitlines()[0], 4 * _LONGEST) if said else type(error).__name__


def check_file(path: Path, error: type[EdgeQKVError] = CheckpointError, what: str = "file") -> int:
    """See that something is a regular file: a pipe would be waited for, a device has no end.

    Returns:
        Its size in bytes.

    Raises:
        EdgeQKVError: of the type ``error``: it is missing, cannot be looked at, or is something else.
    """
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError) as cause:
        raise error(f"cannot read {path}: there is no such {what}") from cause
    except (OSError, ValueError) as cause:  # too long a name, no permission; a null character
        raise error(f"cannot read {shortened(str(path), 2 * _LONGEST)}: {_reason(cause)}") from cause
    if stat.S_ISDIR(found.st_mode):
        raise error(f"cannot read {path}: it is a folder, not a {what}")
    if not stat.S_ISREG(found.st_mode):
        kind = next((name for is_one, name in _OTHER_KINDS if is_one(found.st_mode)), "something else")
        raise error(f"cannot read {path}: it is {kind}, not a {what}")
    return found.st_size


def is_file(path: str | Path) -> bool:
    """Whether there is a file; a path that the system refuses (too long, forbidden) is none."""
    return os.path.isfile(path)  # noqa: PTH113 - Path.is_file raises what the system says of such a path


def is_folder(path: str | Path) -> bool:
    """Whether there is a folder; a path that the system refuses is none."""
    return os.path.isdir(path)  # noqa: PTH112 - as above


def read_text(path: Path, what: str = "text file", most_bytes: int | None = None) -> str:
    """A text file's content.

    Args:
        path: the file.
        what: what it is, for people.
        most_bytes: how large it may be.

    Raises:
        InputError: it cannot be read, is too large, or is not UTF-8.
    """
    size = check_file(path, InputError, what)
    if most_bytes is not None and size > most_bytes:
        raise InputError(f"{path} has {size:,} bytes, and a {what} has {most_bytes:,} at most; it is something else")
    with reading(path, "text in UTF-8", InputError):
        return path.read_text(encoding="utf-8")


def read_json(path: Path, what: str) -> dict[str, Any]:
    """A JSON file that holds an object.

    Raises:
        InputError: it cannot be read, or holds something else.
    """
    text = read_text(path, what)
    with parsed(f"{path} is no JSON"):  # nesting beyond Python's depth, numbers beyond its digits
        content = json.loads(text)
    if not isinstance(content, dict):
        raise InputError(f"{path} is no {what}: it holds a {type(content).__name__}, not an object")
    return content


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


def of_field(place: Iterable[object], said: str) -> str:
    """What is wrong with a field of a file, of a bearable length.

    >>> of_field(("files", "model.onnx", "bytes"), "Field required")
    'files.model.onnx.bytes: Field required'
    """
    named = shortened(".".join(shortened(str(part), _LONGEST) for part in place), 4 * _LONGEST)
    return f"{named}: {shortened(said, 4 * _LONGEST)}" if named else shortened(said, 4 * _LONGEST)


def shortened(text: str, most: int = _LONGEST) -> str:
    """At most so many characters of a text."""
    return text if len(text) <= most else f"{text[: most - 1]}…"
