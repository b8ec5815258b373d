"""``optimum-cli export edgeqkv``: the export command among those of Hugging Face's exporters.

Its options are read off ``edgeqkv export`` and handed to it as they were given, so that they mean the same, and so do
its messages and exit codes. The model is what ``optimum`` takes it for: its `TasksManager` says of which library and
for which task it is, and edgeqkv exports what transformers has for text generation.
"""

from __future__ import annotations

import sys
from argparse import Action, ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from optimum.commands.base import BaseOptimumCLICommand, CommandInfo

__all__ = ["EdgeQKVExportCommand"]

_NAME: Final = "edgeqkv"
_OWN: Final = frozenset({"model", "out", "install_completion", "show_completion"})
"""Of the command's parameters, what this one has in a way of its own, or not at all."""


class EdgeQKVExportCommand(BaseOptimumCLICommand):  # type: ignore[misc]
    """``optimum-cli export edgeqkv --model MODEL [options] OUT``."""

    COMMAND = CommandInfo(name=_NAME, help="Export to phones (ONNX, ExecuTorch, Core ML) with one merged KV state.")

    @staticmethod
    def parse_args(parser: ArgumentParser) -> None:
        """Declare the options. ``optimum-cli`` asks every command for its own, whichever is to be run."""
        if _NAME not in sys.argv:
            return
        parser.add_argument("-m", "--model", required=True, help="A model's directory, or its name on the hub.")
        parser.add_argument(
            "--task", default="auto", help="What the model is for. Default: what optimum's TasksManager says of it."
        )
        parser.add_argument("output", metavar="OUT", help="The folder to write.")
        for parameter in _parameters():
            for flags in filter(None, (parameter.opts, parameter.secondary_opts)):
                parser.add_argument(
                    *flags,
                    action=_Passed,
                    nargs=0 if parameter.is_flag else None,
                    metavar=None if parameter.is_flag else parameter.metavar or parameter.name.upper(),
                    help=(parameter.help or "").replace("%", "%%"),
                )

    def run(self) -> None:
        """Run the export, and end the process as ``edgeqkv export`` does."""
        from edgeqkv.cli.app import main

        given: Any = self.args
        sys.argv = ["edgeqkv", "export", given.model, "--out", given.output, *given.passed]
        main(before=lambda: _check(given.model, given.task))


class _Passed(Action):
    """Notes an option and its value as they were given."""

    def __init__(self, option_strings: Sequence[str], dest: str, **rest: Any) -> None:
        super().__init__(option_strings, "passed", default=(), **rest)

    def __call__(self, parser: ArgumentParser, namespace: Namespace, values: Any, option: str | None = None) -> None:
        # As one word, so that a value that begins with a dash stays a value.
        name = max(self.option_strings, key=len)
        namespace.passed = [*namespace.passed, name if self.nargs == 0 else f"{name}={values}"]


def _parameters() -> list[Any]:
    """The options of ``edgeqkv export``."""
    import typer

    from edgeqkv.cli.export import export

    app = typer.Typer(add_completion=False)
    app.command()(export)
    return [each for each in typer.main.get_command(app).params if each.name not in _OWN]


def _check(model: str, task: str) -> None:
    from edgeqkv.checkpoints import hub
    from edgeqkv.checkpoints.huggingface.tasks import check_task

    path = Path(model)
    if hub.is_name(path):
        path = hub.resolved(model)
    check_task(path, task)
