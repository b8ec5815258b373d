"""``edgeqkv inspect``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import edgeqkv
from edgeqkv.backends import TARGETS, backend
from edgeqkv.cli import console
from edgeqkv.cli.options import Averaged, Heads, Json
from edgeqkv.errors import InputError
from edgeqkv.reading import is_file

__all__ = ["inspect"]


def inspect(
    subject: Annotated[
        Path,
        typer.Argument(metavar="MODEL|DIR|FILE", help="A checkpoint, a bundle, or an exported model of anybody's."),
    ],
    heads: Heads = None,
    ema: Averaged = False,
    as_json: Json = False,
) -> None:
    """Say what something is: a checkpoint, a Hugging Face model, a bundle, or a .onnx, .pte or .mlpackage."""
    from edgeqkv.bundle.bundle import MANIFEST

    if is_file(subject / MANIFEST):
        _refuse(subject, heads, ema)
        _inspect_bundle(subject, as_json)
        return
    writer = next((name for name in TARGETS if subject.suffix in backend(name).suffixes), None)
    if writer is not None:
        _refuse(subject, heads, ema)
        from edgeqkv.cli.summaries import show_file

        facts = backend(writer).inspect(subject)
        if as_json:
            console.print_json(facts.to_json())
        else:
            show_file(facts)
        return
    loaded = edgeqkv.load(subject, heads=heads, ema=ema)
    from edgeqkv.cli.facts import describe  # after what says which package is missing, if torch is
    from edgeqkv.cli.summaries import show_model

    described = describe(loaded)
    if as_json:
        console.print_json(described)
    else:
        show_model(described)


def _refuse(subject: Path, heads: int | None, ema: bool) -> None:
    if heads is not None or ema:
        raise InputError(f"--heads and --ema are for checkpoints, and {subject} is an export; leave them out")


def _inspect_bundle(path: Path, as_json: bool) -> None:
    from edgeqkv.bundle.bundle import Bundle
    from edgeqkv.cli.summaries import bundle_rows, how_to_run

    bundle = Bundle(path)
    commands = how_to_run(bundle)
    if as_json:
        console.print_json({"bundle": str(path), **bundle.manifest.model_dump(mode="json"), "commands": dict(commands)})
        return
    version = bundle.manifest.edgeqkv
    console.print_facts(f"{path}, a bundle of edgeqkv {version}".rstrip(), bundle_rows(bundle))
    console.print_blank()
    console.print_facts("what to do with it", commands)
