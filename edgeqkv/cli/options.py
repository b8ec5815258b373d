"""Options and arguments that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgeqkv.backends import TARGETS
from edgeqkv.cli import completion
from edgeqkv.cli.command import ENCODERS, OUTPUT, RARE, TARGET
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

Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.", rich_help_panel=OUTPUT)]
Target = Annotated[
    str | None,
    typer.Option(
        "--target",
        "-t",
        metavar="NAME",
        help="Which of the bundle's targets; the only one by default.",
        autocompletion=completion.held_targets,
    ),
]
TargetNames = Annotated[
    list[str] | None,
    typer.Option(
        "--target",
        "-t",
        metavar="NAME",
        help=f"{', '.join(TARGETS)}, or several. Default: {TARGETS[0]}, or the recipe's.",
        autocompletion=completion.targets,
        rich_help_panel=TARGET,
    ),
]
Engine = Annotated[
    str | None,
    typer.Option(
        "--engine",
        metavar="NAME",
        help="What is to run it. Default: the target's own.",
        autocompletion=completion.engines,
    ),
]
BundlePath = Annotated[Path, typer.Argument(metavar="DIR", help="A bundle: the folder that 'export' wrote.")]
CheckpointPath = Annotated[
    Path,
    typer.Argument(metavar="MODEL", help="model.pt, model.safetensors, or Hugging Face: a folder or org/name."),
]
Heads = Annotated[
    int | None,
    typer.Option(
        "--heads",
        metavar="N",
        help="Attention heads, for a vision checkpoint that does not say how many.",
        rich_help_panel=ENCODERS,
    ),
]
Averaged = Annotated[
    bool,
    typer.Option(
        "--ema",
        help="Take the checkpoint's averaged weights (ema_state_dict), not the last step's.",
        rich_help_panel=ENCODERS,
    ),
]
TokenizerPath = Annotated[
    Path | None, typer.Option("--tokenizer", metavar="FILE", help="tokenizer.json, if the bundle holds none.")
]
Eos = Annotated[
    list[str] | None,
    typer.Option(
        "--eos",
        metavar="ID|TOKEN",
        help="A token that ends a text; may repeat. Default: what the tokenizer and the files beside it say.",
        rich_help_panel=RARE,
    ),
]
DeviceNames = Annotated[
    list[str] | None,
    typer.Option(
        "--device",
        "-d",
        metavar="NAME",
        help="A device of the catalogue ('edgeqkv devices'); may repeat.",
        autocompletion=completion.devices,
        rich_help_panel=TARGET,
    ),
]
DevicesFile = Annotated[
    Path | None,
    typer.Option(
        "--devices",
        metavar="FILE",
        help="YAML with devices of your own; see docs/budget.md.",
        rich_help_panel=RARE,
    ),
]
PresetName = Annotated[
    str | None,
    typer.Option(
        "--recipe",
        metavar="NAME|FILE",
        help="Tried choices ('edgeqkv recipes'); options override.",
        autocompletion=completion.recipes,
        rich_help_panel=TARGET,
    ),
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
