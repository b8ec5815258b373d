"""The command line's part of encoders: ``run``, and what ``inspect``, ``export`` and ``verify`` do with them."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import numpy as np
import numpy.typing as npt
import typer

from edgeqkv.cli import console
from edgeqkv.errors import InputError, VerificationFailed

if TYPE_CHECKING:
    from edgeqkv.bundle.bundle import Bundle
    from edgeqkv.model.model import EncoderModel
    from edgeqkv.pipeline.proof import Verification

__all__ = ["describe", "export", "numbers", "register", "show_bundle", "show_model", "verdict", "verify"]

_BEST: Final = 5  # classes of an image that are shown


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(run)


def run(
    bundle: Annotated[Path, typer.Argument(metavar="DIR", help="A bundle that holds an encoder.")],
    input_: Annotated[
        Path, typer.Option("--input", "-i", metavar="FILE", help="An .npy file, or an image for a model of images.")
    ],
    target: Annotated[
        str | None, typer.Option("--target", "-t", help="Which of the bundle's targets; the only one by default.")
    ] = None,
    engine: Annotated[
        str | None, typer.Option("--engine", help="What is to run it; the target's default if not given.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Run an encoder on a file and print its answer: classes, tokens, or the odd one out."""
    from edgeqkv.bundle.bundle import Bundle
    from edgeqkv.run.inputs import read_inputs

    opened = Bundle(bundle)
    session = opened.encoder_session(target, engine)
    config = opened.manifest.model.config
    outputs = session.run(read_inputs(input_, config))
    answers = [_answer(logits, config["input"]["kind"]) for logits in outputs]
    if as_json:
        console.print_json({"input": str(input_), "task": config["task"], "answers": answers})
        return
    for index, answer in enumerate(answers):
        console.print_facts(f"{input_}{f' [{index}]' if len(answers) > 1 else ''} · {config['task']}", _words(answer))


def export(
    model: EncoderModel, targets: list[str], out: Path, options: Mapping[str, Any], foreign: Mapping[str, object]
) -> Bundle:
    """Export an encoder, unless options were given that are not for one; ``foreign`` are their values."""
    import edgeqkv

    given = [name for name, value in foreign.items() if value]
    if given:
        raise InputError(f"{model.source.path.name} is an encoder, and {', '.join(given)} is for language models")
    with console.progress() as report:
        return edgeqkv.export(model, targets, out=out, report=report, **options)


def verify(
    bundle: Bundle, against: Path | None, heads: int | None, target: str | None, engine: str | None, as_json: bool
) -> None:
    """Prove a bundle that holds an encoder again. Exits 1 if it does not compute what the original does.

    Raises:
        InputError: the original is a language model, or not the one that was exported.
    """
    import edgeqkv
    from edgeqkv.pipeline.verify import verify_encoder

    original = edgeqkv.load(against, heads=heads) if against else None
    from edgeqkv.model.model import EncoderModel  # after what says which package is missing, if torch is

    if original is not None and not isinstance(original, EncoderModel):
        raise InputError(f"{against} is a language model, and {bundle.path} holds an encoder")
    results = {}
    with console.progress() as report:
        for name in [target] if target else bundle.targets:
            report(f"verifying {name}", None)
            results[name] = verify_encoder(bundle, name, against=original, engine=engine)
    if as_json:
        told = {name: result.model_dump(mode="json") for name, result in results.items()}
        console.print_json({"bundle": str(bundle.path), "targets": told})
    else:
        for name, result in results.items():
            console.print_facts(f"{bundle.path} · {name}", [("verified", verdict(result))])
    if wrong := [f"{name}: {result.failure}" for name, result in results.items() if not result.passed]:
        failure = VerificationFailed(f"{bundle.path} does not compute what the original does: {'; '.join(wrong)}")
        console.print_error(failure)
        raise typer.Exit(failure.exit_code)


def numbers(text: str | None, name: str) -> tuple[float, ...] | None:
    """A comma list of numbers.

    Raises:
        InputError: it is none.
    """
    if text is None:
        return None
    try:
        return tuple(float(number) for number in text.split(","))
    except ValueError as error:
        raise InputError(f"{name} takes numbers with commas between them, not '{text}'") from error


def describe(model: EncoderModel) -> dict[str, Any]:
    """Everything that the checkpoint tells, as JSON values."""
    import dataclasses

    from edgeqkv.backends import TARGETS, backend
    from edgeqkv.bundle.manifest import ELEMENT_BYTES

    return {
        "file": str(model.source.path),
        "format": model.source.format,
        "class": model.source.model_class,
        "variant": str(model.variant),
        "parameters": model.parameters,
        "config": dataclasses.asdict(model.config),
        "weight_bytes": {name: model.parameters * ELEMENT_BYTES[name] for name in ("fp32", "fp16", "int8")},
        "exports": {
            name: {"forms": list(backend(name).encoder_forms), "weights": list(backend(name).weights)}
            for name in TARGETS
        },
        "training": model.source.training,
        "notes": list(model.notes),
    }


def show_model(facts: dict[str, Any]) -> None:
    """A checkpoint, as `describe` has it."""
    config, input_ = facts["config"], facts["config"]["input"]
    match input_["kind"]:
        case "tokens":
            takes = f"{input_['length']} token ids of {input_['vocab_size']} (at most {input_['longest']})"
        case "features":
            takes = f"a set of {input_['length']} vectors of {input_['size']} features"
        case _:
            pixels, patch = input_["size"], input_["patch"]
            takes = f"an image of {input_['channels']} × {pixels} × {pixels} pixels, in patches of {patch} × {patch}"
    rows: list[tuple[str, object]] = [
        ("variant", f"{facts['variant']} ({facts['class']}, {config['task']})"),
        ("parameters", f"{facts['parameters']:,}"),
        ("input", takes),
        (
            "shape",
            f"{config['layers']} layers, {config['hidden_size']} channels, {config['heads']} heads of "
            f"{config['head_dim']}, {config['classes']} classes",
        ),
        ("weights", ", ".join(f"{console.size(n)} in {name}" for name, n in facts["weight_bytes"].items())),
    ]
    rows += [
        (f"export to {name}", f"weights {', '.join(can['weights'])}; forms {', '.join(can['forms'])}")
        for name, can in facts["exports"].items()
    ]
    rows += [(key.replace("_", " "), value) for key, value in facts["training"].items()]
    rows += [("note", note) for note in facts["notes"]]
    console.print_facts(facts["file"], rows)


def show_bundle(bundle: Bundle, started: float) -> None:
    """A bundle that was just written."""
    manifest = bundle.manifest
    rows: list[tuple[str, object]] = [
        ("variant", manifest.model.variant),
        ("files", ", ".join(f"{name} ({console.size(card.bytes)})" for name, card in manifest.files.items())),
    ]
    for name in bundle.targets:
        card = bundle.encoder(name)
        shapes = " → ".join("×".join(map(str, spec.shape)) for spec in (card.artifact.input, card.artifact.output))
        rows += [
            (name, f"{card.artifact.form}, {card.artifact.weights} weights, {shapes}"),
            ("- verified", verdict(card.verification) if card.verification else "not (--no-verify)"),
        ]
    rows += [("note", note) for note in manifest.model.notes]
    console.print_facts(f"{bundle.path} written in {time.perf_counter() - started:.1f} s", rows)


def verdict(result: Verification) -> str:
    """A verification of an encoder in one line."""
    if not result.passed:
        return f"no: {result.failure}"
    return (
        f"yes: {result.positions} inputs, largest difference of a logit {result.max_abs_error:.1e} "
        f"({result.tolerance:.1e} allowed), the same answer in {result.argmax_equal} of {result.steps}"
    )


def _answer(logits: npt.NDArray[np.float32], kind: str) -> dict[str, Any]:
    """What the logits of one input say."""
    if kind == "tokens":
        return {"tokens": logits.argmax(-1).tolist()}
    powers = np.exp(logits - logits.max())
    shares = (powers / powers.sum()).tolist()
    best = logits.argsort()[::-1].tolist()
    if kind == "features":
        return {"odd_one_out": best[0], "probability": shares[best[0]]}
    return {"classes": [{"class": index, "probability": shares[index]} for index in best[:_BEST]]}


def _words(answer: Mapping[str, Any]) -> list[tuple[str, object]]:
    if "tokens" in answer:
        return [("tokens", " ".join(map(str, answer["tokens"])))]
    if "odd_one_out" in answer:
        return [("odd one out", f"member {answer['odd_one_out']} ({answer['probability']:.1%})")]
    return [(f"class {each['class']}", f"{each['probability']:.1%}") for each in answer["classes"]]
