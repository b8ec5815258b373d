"""``edgeqkv bench``."""

from __future__ import annotations

from typing import Annotated

import typer

import edgeqkv
from edgeqkv.cli import console
from edgeqkv.cli.options import BundlePath, Engine, Json, Target
from edgeqkv.settings import check_all

__all__ = ["bench"]


def bench(
    bundle: BundlePath,
    prompt: Annotated[int, typer.Option("--prompt", "-p", help="Tokens of the prompt; of an encoder, inputs.")] = 128,
    generate: Annotated[int, typer.Option("--generate", "-n", help="Tokens that follow it one by one.")] = 32,
    repeats: Annotated[int, typer.Option("--repeats", "-r", help="Repetitions that count.")] = 5,
    target: Target = None,
    engine: Engine = None,
    as_json: Json = False,
) -> None:
    """Measure how fast a bundle runs on this machine, in a process of its own."""
    check_all(prompt=prompt, generate=generate, repeats=repeats)
    with console.progress() as on_progress:
        on_progress("measuring", None)
        results = edgeqkv.bench(bundle, target, prompt=prompt, generate=generate, repeats=repeats, engine=engine)
    if as_json:
        console.print_json({"bundle": str(bundle), "results": [each.model_dump(mode="json") for each in results]})
        return
    rows = [
        (each.test, each.count, each.position, f"{each.mean:.1f} ± {each.deviation:.1f}", len(each.per_second))
        for each in results
    ]
    console.print_table(("test", "count", "after", "per second", "repeats"), rows)
