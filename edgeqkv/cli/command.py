"""How every command shows its help, and the options that all of them have.

``--help`` is one screen: what is rarely needed is in panels that ``--help-all`` shows.
"""

from __future__ import annotations

from typing import Annotated, Any, Final

import typer
from typer.core import TyperCommand

from edgeqkv.cli import console

__all__ = ["ENCODERS", "OUTPUT", "PRECISION", "QUALITY", "RARE", "TARGET", "Command"]

TARGET: Final = "Target: where it is to run"
PRECISION: Final = "Precision and size"
QUALITY: Final = "Quality"
ENCODERS: Final = "Encoders"
RARE: Final = "Rarely needed"
OUTPUT: Final = "Output"

_FOLDED: Final = (ENCODERS, RARE)
"""The panels that ``--help`` leaves to ``--help-all``."""


class Command(TyperCommand):
    """A command of edgeqkv."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._all = False
        self._folded = [param for param in self.params if getattr(param, "rich_help_panel", None) in _FOLDED]
        quiet, help_all = _shared()
        self.params += [quiet, help_all] if self._folded else [quiet]

    def get_help_option(self, ctx: Any) -> Any:
        option = super().get_help_option(ctx)
        if option is not None and hasattr(option, "rich_help_panel"):
            option.rich_help_panel, option.help = OUTPUT, "Show this page."
        return option

    def format_help(self, ctx: Any, formatter: Any) -> None:
        whole = self.params
        if not self._all:
            self.params = [param for param in whole if param not in self._folded]
        try:
            super().format_help(ctx, formatter)
        finally:
            self.params = whole

    def show_all(self, ctx: typer.Context) -> None:
        """Print the help with what is folded away otherwise."""
        self._all = True
        typer.echo(ctx.get_help())


def _shared() -> list[Any]:
    """The options that are added to commands, made by typer as it makes every other."""
    app = typer.Typer(add_completion=False)
    app.command()(_options)
    made = [param for param in typer.main.get_command(app).params if param.name in ("quiet", "help_all")]
    for param in made:
        param.expose_value = False  # no command is told
    return made


def _be_quiet(ctx: typer.Context, asked: bool) -> None:
    if asked and not ctx.resilient_parsing:
        console.be_quiet()


def _show_all(ctx: typer.Context, asked: bool) -> None:
    if asked and not ctx.resilient_parsing:
        assert isinstance(ctx.command, Command)
        ctx.command.show_all(ctx)
        ctx.exit()


def _options(
    quiet: Annotated[
        bool,
        typer.Option("--quiet", "-q", help="No progress and no remarks.", callback=_be_quiet, rich_help_panel=OUTPUT),
    ] = False,
    help_all: Annotated[
        bool,
        typer.Option(
            "--help-all",
            help="This page, with encoders' options and rare ones.",
            is_eager=True,
            callback=_show_all,
            rich_help_panel=OUTPUT,
        ),
    ] = False,
) -> None:
    """Only its parameters are used."""
