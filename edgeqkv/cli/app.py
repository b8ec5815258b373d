"""The command line: ``edgeqkv``, with a module for each group of commands.

Commands parse and print; the work is done by the packages below. Exit codes: 0 fine, 1 a check failed (verification,
budget), 2 wrong input.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from edgeqkv.cli import console
from edgeqkv.cli.bench import bench
from edgeqkv.cli.budget import budget, devices, recipes
from edgeqkv.cli.demo import demo
from edgeqkv.cli.doctor import doctor
from edgeqkv.cli.export import export
from edgeqkv.cli.generate import generate
from edgeqkv.cli.inspect import inspect
from edgeqkv.cli.run import run
from edgeqkv.cli.verify import verify
from edgeqkv.errors import EdgeQKVError
from edgeqkv.extras import installed_version

__all__ = ["app", "main"]

app = typer.Typer(
    name="edgeqkv",
    help="Export transformers that share key and value projections to phones: one merged KV state, proven.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
for command in (inspect, export, verify, generate, run, bench, budget, devices, recipes, demo, doctor):
    app.command()(command)


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks. May stand anywhere.")] = False,
) -> None:
    if version:
        typer.echo(installed_version("edgeqkv"))
        raise typer.Exit


def main() -> None:
    """The ``edgeqkv`` command."""
    debug = "--debug" in sys.argv
    sys.argv[1:] = [argument for argument in sys.argv[1:] if argument != "--debug"]
    try:
        app()
    except EdgeQKVError as error:
        if debug:
            raise
        if "--json" in sys.argv:
            console.print_json({"error": {"type": type(error).__name__, "message": str(error)}})
        console.print_error(error)
        sys.exit(error.exit_code)
    except BrokenPipeError:  # the reader of a pipe has had enough
        sys.stderr.close()
        sys.exit(0)
