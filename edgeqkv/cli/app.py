"""The command line: ``edgeqkv``, with a module for each group of commands.

Commands parse and print; the work is done by the packages below. Exit codes: 0 fine, 1 a check failed (verification,
budget), 2 wrong input.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Final

import typer

from edgeqkv.children import orderly_end
from edgeqkv.cli import console
from edgeqkv.cli._compat import UsageError
from edgeqkv.cli.bench import bench
from edgeqkv.cli.budget import budget, devices, recipes
from edgeqkv.cli.command import Command
from edgeqkv.cli.compare import compare
from edgeqkv.cli.contribute import contribute
from edgeqkv.cli.convert import convert
from edgeqkv.cli.demo import demo
from edgeqkv.cli.doctor import doctor
from edgeqkv.cli.export import export
from edgeqkv.cli.generate import generate
from edgeqkv.cli.inspect import inspect
from edgeqkv.cli.run import run
from edgeqkv.cli.verify import verify
from edgeqkv.errors import EdgeQKVError, InputError
from edgeqkv.extras import installed_version

__all__ = ["app", "main"]

app = typer.Typer(
    name="edgeqkv",
    help="Export transformers that share key and value projections to phones: one merged KV state, proven.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
_INTERRUPTED: Final = 130  # as shells say it

_COMMANDS = (
    inspect,
    convert,
    export,
    verify,
    generate,
    run,
    bench,
    compare,
    budget,
    devices,
    recipes,
    contribute,
    demo,
    doctor,
)
for command in _COMMANDS:
    app.command(cls=Command)(command)


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks. May stand anywhere.")] = False,
) -> None:
    if version:
        typer.echo(installed_version("edgeqkv"))
        raise typer.Exit


def main(before: Callable[[], None] = lambda: None) -> None:
    """The ``edgeqkv`` command; ``before`` is done first, and its errors are the command's."""
    debug = "--debug" in sys.argv
    sys.argv[1:] = [argument for argument in sys.argv[1:] if argument != "--debug"]
    console.prepare()
    failed: OSError | None = None
    try:
        with orderly_end(), _said_once(debug):
            code = _run(debug, before)
    except OSError as error:
        failed, code = error, EdgeQKVError.exit_code
    if (lost := console.finish()) is not None:
        if isinstance(lost, BrokenPipeError):  # the reader of a pipe has had enough
            sys.exit(0)
        console.print_error(InputError(f"cannot write to standard output: {lost.strerror}"))
        sys.exit(EdgeQKVError.exit_code)
    if failed is not None:
        if debug:
            raise failed
        _tell("OSError", InputError(f"cannot use {failed.filename or 'a file'}: {failed.strerror}"))
        console.finish()
    sys.exit(code)


@contextmanager
def _said_once(debug: bool) -> Iterator[None]:
    """No word of what fails while it is given up, as a library's file does on a full disk: the error itself is told."""
    before = sys.unraisablehook
    if not debug:
        sys.unraisablehook = lambda _: None
    try:
        yield
    finally:
        sys.unraisablehook = before


def _run(debug: bool, before: Callable[[], None]) -> int:
    """Run the command that was asked for; its exit code."""
    try:
        before()
        code = int(app(standalone_mode=False) or 0)
        return _stopped(code) if code == _INTERRUPTED else code  # which is what typer makes of Ctrl-C
    except SystemExit as end:  # of a broken pipe, by typer; of a signal
        code = end.code if isinstance(end.code, int) else 1
        return _stopped(code) if code > 128 else code
    except EdgeQKVError as error:
        if debug:
            raise
        _tell(type(error).__name__, error)
        return error.exit_code
    except UsageError as error:
        if said := error.format_message():  # else no command was given, and typer has shown which there are
            _tell("UsageError", InputError(f"{said.rstrip('.')}. {_help_of(error)}"))
        return error.exit_code
    except MemoryError:
        if debug:
            raise
        _tell("MemoryError", InputError("there is not enough memory for this; use a smaller model or file"))
        return EdgeQKVError.exit_code
    except (typer.Abort, KeyboardInterrupt):
        return _stopped(_INTERRUPTED)


def _stopped(code: int) -> int:
    """Say what a command leaves that was told to stop."""
    _tell("Interrupted", InputError(f"stopped; {console.what_is_left()}"))
    return code


def _help_of(error: UsageError) -> str:
    """Where to look up what can be said, in a sentence."""
    return f"See '{error.ctx.command_path if error.ctx else 'edgeqkv'} --help'"


def _tell(kind: str, error: EdgeQKVError) -> None:
    if "--json" in sys.argv:
        console.print_json({"error": {"type": kind, "message": str(error)}})
    console.print_error(error)
