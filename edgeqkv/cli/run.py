"""``edgeqkv run``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from edgeqkv.cli import console
from edgeqkv.cli.options import Engine, Json, Target

__all__ = ["run"]


def run(
    bundle: Annotated[Path, typer.Argument(metavar="DIR", help="A bundle that holds an encoder.")],
    input_: Annotated[
        Path, typer.Option("--input", "-i", metavar="FILE", help="An .npy file, or an image for a model of images.")
    ],
    target: Target = None,
    engine: Engine = None,
    as_json: Json = False,
) -> None:
    """Run an encoder on a file and print its answer: classes, tokens, or the odd one out."""
    from edgeqkv.bundle.bundle import Bundle
    from edgeqkv.cli.summaries import answer
    from edgeqkv.model.config import config_of
    from edgeqkv.run.answers import evaluate
    from edgeqkv.run.inputs import read_inputs
    from edgeqkv.run.session import EncoderSession, open_bundle

    opened = Bundle(bundle)
    opened.check_causal(wanted=False)
    session = open_bundle(opened, target, engine)
    assert isinstance(session, EncoderSession)
    config = asdict(config_of(opened.manifest.model.config))
    outputs = session.run(read_inputs(input_, config))
    answers = [evaluate(logits, config["input"]["kind"]) for logits in outputs]
    if as_json:
        console.print_json({"input": str(input_), "task": config["task"], "answers": answers})
        return
    for index, each in enumerate(answers):
        console.print_facts(f"{input_}{f' [{index}]' if len(answers) > 1 else ''} · {config['task']}", answer(each))
