"""``edgeqkv demo``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgeqkv.backends import TARGETS
from edgeqkv.cli import console
from edgeqkv.cli.export import export
from edgeqkv.cli.generate import generate
from edgeqkv.cli.inspect import inspect

__all__ = ["demo"]


def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder to write.")] = Path("build/demo"),
    target: Annotated[str, typer.Option("--target", "-t", help="Comma list of targets.")] = TARGETS[0],
) -> None:
    """The built-in trained model through all of it: inspect, export, verify, generate."""
    from edgeqkv import demo as built_in

    model, tokenizer = built_in.checkpoint_path(), built_in.tokenizer_path()
    inspect(model)
    console.print_blank()
    names = target.split(",")
    # So small a model loses readability at 4 bits, where a larger one does not; every target can do this.
    weights = "fp16"
    replaces = (out / "manifest.json").is_file()
    export(model, target=names, out=out, weights=weights, tokenizer=tokenizer, force=replaces)
    for name in names:
        console.print_blank()
        generate(out, prompt=built_in.DEMO_PROMPT, max_tokens=90, target=name)
