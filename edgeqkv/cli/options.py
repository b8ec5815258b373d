"""Options and arguments that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgeqkv.backends import TARGETS
from edgeqkv.errors import InputError

__all__ = [
    "Averaged",
    "BundlePath",
    "CheckpointPath",
    "DeviceNames",
    "DevicesFile",
    "Engine",
    "Eos",
    "Heads",
    "Json",
    "PresetName",
    "Target",
    "TargetNames",
    "TokenizerPath",
    "numbers",
    "split",
]


def _complete_target(incomplete: str) -> list[str]:
    """Completions of a name, or of the last one in a comma list."""
    before, comma, last = incomplete.rpartition(",")
    return [f"{before}{comma}{name}" for name in TARGETS if name.startswith(last)]


Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Target = Annotated[
    str | None,
    typer.Option(
        "--target",
        "-t",
        help="Which of the bundle's targets; the only one by default.",
        autocompletion=_complete_target,
    ),
]
TargetNames = Annotated[
    list[str] | None,
    typer.Option(
        "--target",
        "-t",
        help=f"{', '.join(TARGETS)}; repeat it or give a comma list. Default: the recipe's, or {TARGETS[0]}.",
        autocompletion=_complete_target,
    ),
]
Engine = Annotated[str | None, typer.Option("--engine", help="What is to run it; the target's default if not given.")]
BundlePath = Annotated[Path, typer.Argument(metavar="DIR", help="A bundle: the folder that 'export' wrote.")]
CheckpointPath = Annotated[
    Path,
    typer.Argument(
        metavar="MODEL", help="model.pt, model.safetensors, or a Hugging Face model: its directory or org/name."
    ),
]
Heads = Annotated[
    int | None, typer.Option("--heads", help="Attention heads, for a vision checkpoint that does not say how many.")
]
Averaged = Annotated[
    bool, typer.Option("--ema", help="Take the checkpoint's averaged weights (ema_state_dict), not the last step's.")
]
TokenizerPath = Annotated[Path | None, typer.Option("--tokenizer", help="tokenizer.json, if the bundle holds none.")]
Eos = Annotated[
    list[str] | None,
    typer.Option(
        "--eos",
        metavar="ID|TOKEN",
        help="A token that ends a text; may repeat. Default: what the tokenizer and the files beside it say.",
    ),
]
DeviceNames = Annotated[
    list[str] | None,
    typer.Option("--device", "-d", metavar="NAME", help="A device of the catalogue ('edgeqkv devices'); may repeat."),
]
DevicesFile = Annotated[
    Path | None, typer.Option("--devices", metavar="FILE", help="YAML with devices of your own; see docs/budget.md.")
]
PresetName = Annotated[
    str | None, typer.Option("--recipe", metavar="NAME|FILE", help="A recipe ('edgeqkv recipes'); options override it.")
]


def split(given: list[str] | None) -> tuple[str, ...] | None:
    """The names of a repeated option whose values may be comma lists."""
    return None if given is None else tuple(name.strip() for entry in given for name in entry.split(","))


def numbers(given: str | None, flag: str) -> tuple[float, ...] | None:
    """The numbers of a comma list.

    Raises:
        InputError: it is none.
    """
    if given is None:
        return None
    try:
        return tuple(float(number) for number in given.split(","))
    except ValueError as error:
        raise InputError(f"{flag} takes numbers with commas between them, not '{given}'") from error
