"""``edgeqkv demo``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import edgeqkv
from edgeqkv import demo as built_in
from edgeqkv.backends import TARGETS
from edgeqkv.cli import console
from edgeqkv.cli.export import export
from edgeqkv.cli.generate import generate
from edgeqkv.cli.inspect import inspect
from edgeqkv.errors import BundleError

__all__ = ["demo"]


def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder to write.")] = Path("build/demo"),
    target: Annotated[str, typer.Option("--target", "-t", help="Comma list of targets.")] = TARGETS[0],
    force: Annotated[bool, typer.Option("--force", "-f", help="Replace a bundle of another model, too.")] = False,
) -> None:
    """The built-in trained model through all of it: inspect, export, verify, generate."""
    model, tokenizer = built_in.checkpoint_path(), built_in.tokenizer_path()
    inspect(model)
    console.print_blank()
    names = target.split(",")
    # So small a model loses readability at 4 bits, where a larger one does not; every target can do this.
    weights = "fp16"
    export(model, target=names, out=out, weights=weights, tokenizer=tokenizer, force=force or _is_demo(out))
    for name in names:
        console.print_blank()
        generate(out, prompt=built_in.DEMO_PROMPT, max_tokens=90, target=name)


def _is_demo(path: Path) -> bool:
    """Whether a folder holds what an earlier run wrote: a bundle of the built-in model."""
    from edgeqkv.bundle.bundle import Bundle

    try:
        found = Bundle(path, check=False).manifest.model
    except BundleError:
        return False
    from edgeqkv.pipeline.export import model_card

    own = model_card(edgeqkv.load(built_in.checkpoint_path()))
    return (found.source, found.variant, found.parameters) == (own.source, own.variant, own.parameters)
