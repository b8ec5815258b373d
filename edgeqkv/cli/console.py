"""What the command line prints: tables on a terminal, plain lines in a pipe, JSON where it was asked for.

Results go to standard output, progress and errors to standard error, so that a pipe gets results alone. File names, and
what is written in files, are anybody's: they are printed as text and never as markup, without what steers a terminal.
"""

from __future__ import annotations

import io
import json
import math
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Final

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from edgeqkv.cli.stages import Said, Shown
from edgeqkv.errors import EdgeQKVError
from edgeqkv.progress import Progress, silent

__all__ = [
    "be_quiet",
    "finish",
    "prepare",
    "print_blank",
    "print_error",
    "print_facts",
    "print_json",
    "print_markdown",
    "print_note",
    "print_stream",
    "print_table",
    "progress",
    "says_if_stopped",
    "what_is_left",
]

_out = Console(highlight=False, soft_wrap=True)
_err = Console(stderr=True, highlight=False, soft_wrap=True)

_quiet = False  # whether results and errors alone are wanted
_left: Callable[[], str] | None = None  # what a command that is at work leaves if it is stopped

_NARROWEST: Final = 14  # of a column of text in a table


def prepare() -> None:
    """Have both streams take every character: what an encoding lacks is written as its escape.

    A stream that is closed leads nowhere, so that its number is not given to a file, into which libraries would write
    what they mean for a terminal.
    """
    while (spare := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(spare)
    for number, name in ((1, "stdout"), (2, "stderr")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "w", encoding="utf-8", closefd=False))  # noqa: SIM115
        elif isinstance(stream := getattr(sys, name), io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def finish() -> OSError | None:
    """Write what is still held back. What cannot be written is forgotten, so that Python ends in silence.

    Returns:
        Why standard output took no more, now or before; None if it did.
    """
    with suppress(OSError), _writing():
        sys.stdout.flush()
    try:
        sys.stderr.flush()
    except OSError:
        _forget(sys.stderr)
    return _lost


_lost: OSError | None = None  # why standard output took no more


@contextmanager
def _writing() -> Iterator[None]:
    """Inside, standard output is written to, and nothing else is done."""
    global _lost
    try:
        yield
    except OSError as error:
        _lost = error
        _forget(sys.stdout)
        raise


def _forget(stream: Any) -> None:
    """Send what a stream holds back, and all that follows, nowhere."""
    with suppress(OSError, io.UnsupportedOperation):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
        stream.flush()


def print_facts(title: str, facts: Sequence[tuple[str, object]]) -> None:
    """A title and its facts: an aligned list on a terminal, ``name: value`` lines elsewhere."""
    if _out.is_terminal:
        grid = Table.grid(padding=(0, 2))
        grid.add_column(style="dim")
        grid.add_column(overflow="fold")
        for name, value in facts:
            grid.add_row(Text(_plain(name)), Text(_plain(value)))
        with _writing():
            _out.print(Text(_plain(title), style="bold"))
            _out.print(grid)
        return
    _print_lines([_plain(title), *(f"{_plain(name)}: {_plain(value)}" for name, value in facts)])


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A table on a terminal, tab-separated lines elsewhere.

    Where a terminal is too narrow, the columns of text are wrapped; where those would become a word wide, every row is
    shown on its own, a line a column.
    """
    if not _out.is_terminal:
        _print_lines(["\t".join(_plain(cell) for cell in row) for row in (columns, *rows)])
        return
    head, cells = [_plain(column) for column in columns], [[_plain(cell) for cell in row] for row in rows]
    if not cells or _fits(head, cells, _out.width):
        table = Table(box=None, pad_edge=False, header_style="bold")
        for column in head:
            table.add_column(Text(column), overflow="fold")
        for row in cells:
            table.add_row(*map(Text, row))
        with _writing():
            _out.print(table)
        return
    for index, row in enumerate(cells):
        if index:
            print_blank()
        filled = [(name, value) for name, value in zip(head[1:], row[1:], strict=True) if value]
        print_facts(row[0], [(f"  {name}", value) for name, value in filled])


def _fits(head: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> bool:
    """Whether a table can be read at this width: no word is broken, and no text is wrapped to next to nothing."""
    columns = list(zip(*rows, strict=True))
    natural = [max(map(cell_len, column)) for column in columns]
    titled = zip(head, columns, strict=True)
    words = [max(map(cell_len, " ".join((title, *column)).split()), default=0) for title, column in titled]
    least = [max(word, min(whole, _NARROWEST)) for word, whole in zip(words, natural, strict=True)]
    return sum(least) + 2 * (len(columns) - 1) <= width


def print_markdown(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A table in Markdown, wherever it goes."""

    def line(cells: Sequence[object]) -> str:
        return f"| {' | '.join(_plain(cell).replace('|', chr(92) + '|') for cell in cells)} |"

    _print_lines([line(columns), line(["---"] * len(columns)), *map(line, rows)])


def print_blank() -> None:
    """An empty line."""
    _print_lines([""])


def _print_lines(lines: Sequence[str]) -> None:
    with _writing():
        sys.stdout.write("".join(f"{line}\n" for line in lines))


def _plain(value: object) -> str:
    """A value in one line, with what is no printable character as its escape."""
    return "".join(character if character.isprintable() else _escape(character) for character in str(value))


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def print_stream(pieces: Iterable[str]) -> None:
    """A text piece by piece as it comes, with a line break at its end.

    A pipe gets it as it is; on a terminal, what would steer it is escaped, but for line breaks and tabs.
    """
    for piece in pieces:
        if _out.is_terminal:
            piece = "".join(each if each.isprintable() or each in "\n\t" else _escape(each) for each in piece)
        with _writing():
            sys.stdout.write(piece)
            sys.stdout.flush()
    print_blank()


def print_json(value: Any) -> None:
    """A value as JSON, on standard output: a valid document, whatever a file had in it."""
    _print_lines([json.dumps(_json_value(value), indent=2, allow_nan=False)])


def _json_value(value: Any) -> Any:
    """What JSON has for a value: null for what is no finite number, text for what it does not know."""
    match value:
        case None | bool() | str():
            return value
        case int():
            # Python writes no more digits than this, and no reader takes so many.
            return value if abs(value) < 10**300 else hex(value)
        case float():
            return value if math.isfinite(value) else None
        case Mapping():
            return {key if isinstance(key, str) else _plain(key): _json_value(each) for key, each in value.items()}
        case list() | tuple() | set() | frozenset():
            return [_json_value(each) for each in value]
        case _:
            return str(value)


def print_note(text: str) -> None:
    """A remark beside the result, unless it is to be quiet; lost where nobody can be told."""
    if _quiet:
        return
    with suppress(OSError):
        _err.print(_plain(text), markup=False, emoji=False, style="dim" if _err.is_terminal else None)


def print_error(error: EdgeQKVError) -> None:
    """An error, in one line; its exit code says it where nobody can be told."""
    message = Text(_plain(" ".join(str(error).split())))
    with suppress(OSError):
        _err.print(Text("error: ", style="bold red" if _err.is_terminal else ""), message, sep="")


def be_quiet(quiet: bool = True) -> None:
    """Print results and errors alone from now on: no progress, and no remarks."""
    global _quiet
    _quiet = quiet


@contextmanager
def progress() -> Iterator[Progress]:
    """Show where a long job is, how long it has been there and how long it will be: on a terminal in one line that
    changes, with a line for every stage that took long; elsewhere a line a stage, and one now and then."""
    if _quiet:
        yield silent
        return
    with Shown(_err, _plain) if _err.is_terminal else Said(print_note) as stages:
        yield stages.report


@contextmanager
def says_if_stopped(left: Callable[[], str]) -> Iterator[None]:
    """Inside, somebody who stops the command (Ctrl-C) is told what that leaves."""
    global _left
    _left = left
    yield
    _left = None  # not where it ends in an error: `what_is_left` is asked afterwards


def what_is_left() -> str:
    """What a command that was stopped has left, in words."""
    return "nothing was written" if _left is None else _left()
