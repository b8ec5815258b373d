"""What typer raises where a command was used wrongly.

Typer has a copy of click in it, where it had click itself before; `typer.BadParameter` is derived from the class that
is meant in both. Tried with typer 0.29. Without it, usage errors would be printed by typer, and under
``--json`` there would be no document.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

__all__ = ["UsageError"]

if TYPE_CHECKING:

    class UsageError(Exception):
        """A command, an option or a value that does not exist."""

        exit_code: int
        ctx: typer.Context | None

        def format_message(self) -> str: ...
else:
    UsageError = next(each for each in typer.BadParameter.__mro__ if each.__name__ == "UsageError")
