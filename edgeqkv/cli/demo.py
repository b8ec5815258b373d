"""``edgeqkv demo``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer

import edgeqkv
from edgeqkv import demo as built_in
from edgeqkv.backends import TARGETS
from edgeqkv.cli import console
from edgeqkv.cli.convert import convert
from edgeqkv.cli.export import export
from edgeqkv.cli.generate import generate
from edgeqkv.cli.inspect import inspect
from edgeqkv.disk.workplace import scratch
from edgeqkv.errors import BundleError

__all__ = ["demo"]

_FOLDER: Final = Path("build/demo")
_CONVERTED: Final = Path("build/demo-convert")
_VARIANT: Final = "q-k=v+gqa2"  # of 8 heads: an eighth of the state

# So small a model loses readability at 4 bits, where a larger one does not; every target can do this.
_WEIGHTS: Final = "fp16"


def demo(
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help=f"The folder to write. Default: {_FOLDER} or {_CONVERTED}.")
    ] = None,
    target: Annotated[str, typer.Option("--target", "-t", help="Comma list of targets.")] = TARGETS[0],
    force: Annotated[bool, typer.Option("--force", "-f", help="Replace files of another model, too.")] = False,
    converts: Annotated[
        bool, typer.Option("--convert", help=f"Convert the built-in ordinary model to {_VARIANT} first.")
    ] = False,
) -> None:
    """The built-in trained model through all of it: inspect, export, verify, generate."""
    if converts:
        _convert(out or _CONVERTED, target.split(","), force=force or out is None)
    else:
        _export(out or _FOLDER, target.split(","), force=force)


def _export(out: Path, targets: list[str], *, force: bool) -> None:
    model, tokenizer = built_in.checkpoint_path(), built_in.tokenizer_path()
    inspect(model)
    console.print_blank()
    force = force or _is_of(out, model)
    export(model, target=targets, out=out, weights=_WEIGHTS, tokenizer=tokenizer, force=force)
    for name in targets:
        console.print_blank()
        generate(out, prompt=built_in.DEMO_PROMPT, max_tokens=90, target=name)


def _convert(out: Path, targets: list[str], *, force: bool) -> None:
    """Three perplexities of one text: the teacher's, the converted model's, and that of what was exported."""
    from edgeqkv.demo.corpus import read_reference

    model, bundle = out / "model.pt", out / "bundle"
    tokenizer, text = built_in.tokenizer_path(), built_in.heldout_path()
    out.mkdir(parents=True, exist_ok=True)
    with scratch() as folder:
        calibration = folder / "calibration.txt"
        calibration.write_text(read_reference(), encoding="utf-8")
        convert(
            built_in.teacher_path(),
            to=_VARIANT,
            calibrate=calibration,
            out=model,
            tokenizer=tokenizer,
            text=text,
            force=force,
        )
    console.print_blank()
    force = force or _is_of(bundle, model)
    export(model, target=targets, out=bundle, weights=_WEIGHTS, tokenizer=tokenizer, text=text, force=force)


def _is_of(path: Path, checkpoint: Path) -> bool:
    """Whether a folder holds what an earlier run wrote: a bundle of that model."""
    from edgeqkv.bundle.bundle import Bundle

    try:
        found = Bundle(path, check=False).manifest.model
    except BundleError:
        return False
    from edgeqkv.pipeline.export import model_card

    own = model_card(edgeqkv.load(checkpoint))
    return (found.source, found.variant, found.parameters) == (own.source, own.variant, own.parameters)
