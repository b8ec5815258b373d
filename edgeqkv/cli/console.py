"""What the command line prints: tables on a terminal, plain lines in a pipe, JSON where it was asked for.

Results go to standard output, progress and errors to standard error, so that a pipe gets results alone.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.table import Table

from edgeqkv.errors import EdgeQKVError
from edgeqkv.progress import Progress

__all__ = ["print_error", "print_facts", "print_json", "print_note", "print_table", "progress", "size"]

_out = Console(highlight=False, soft_wrap=True)
_err = Console(stderr=True, highlight=False, soft_wrap=True)


def print_facts(title: str, facts: Sequence[tuple[str, object]]) -> None:
    """A title and its facts: an aligned list on a terminal, ``name: value`` lines elsewhere."""
    if _out.is_terminal:
        grid = Table.grid(padding=(0, 2))
        grid.add_column(style="dim")
        grid.add_column(overflow="fold")
        for name, value in facts:
            grid.add_row(name, str(value))
        _out.print(f"[bold]{title}[/bold]")
        _out.print(grid)
        return
    _print_lines([title, *(f"{name}: {value}" for name, value in facts)])


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A table on a terminal, tab-separated lines elsewhere."""
    if _out.is_terminal:
        table = Table(box=None, pad_edge=False, header_style="bold")
        for column in columns:
            table.add_column(column, overflow="fold")
        for row in rows:
            table.add_row(*(str(cell) for cell in row))
        _out.print(table)
        return
    _print_lines(["\t".join(str(cell) for cell in row) for row in (columns, *rows)])


def _print_lines(lines: Sequence[str]) -> None:
    sys.stdout.write("".join(f"{line}\n" for line in lines))


def print_json(value: Any) -> None:
    """A value as JSON, on standard output."""
    sys.stdout.write(json.dumps(value, indent=2) + "\n")


def print_note(text: str) -> None:
    """A remark beside the result."""
    _err.print(text, markup=False, style="dim" if _err.is_terminal else None)


def print_error(error: EdgeQKVError) -> None:
    """An error, in one line."""
    message = " ".join(str(error).split())
    if _err.is_terminal:
        _err.print("[bold red]error:[/bold red] ", end="")
        _err.print(message, markup=False)
    else:
        _err.print(f"error: {message}", markup=False)


@contextmanager
def progress() -> Iterator[Progress]:
    """Show where a long job is: a spinner on a terminal, a line a stage elsewhere."""
    if _err.is_terminal:
        with _err.status("starting") as status:

            def show(stage: str, fraction: float | None = None) -> None:
                status.update(stage if fraction is None else f"{stage} ({fraction:.0%})")

            yield show
        return
    last = ""

    def tell(stage: str, fraction: float | None = None) -> None:
        nonlocal last
        if stage != last:
            _err.print(stage, markup=False)
        last = stage

    yield tell


def size(count: int) -> str:
    """Bytes for people, in binary units.

    >>> size(20 * 1024 * 1024)
    '20.0 MiB'
    """
    value = float(count)
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.2f} GiB"
