"""``edgeqkv verify``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

import edgeqkv
from edgeqkv.backends import TARGETS, backend
from edgeqkv.cli import console
from edgeqkv.cli.opening import open_original, open_tokenizer
from edgeqkv.cli.options import Averaged, Engine, Heads, Json, Target, TokenizerPath
from edgeqkv.errors import InputError, VerificationFailed
from edgeqkv.extras import needed_for
from edgeqkv.model.kinds import refuse_foreign
from edgeqkv.reading import read_text
from edgeqkv.settings import check

__all__ = ["verify"]

_MAX_DEGRADATION = 3.0


def verify(
    bundle: Annotated[Path, typer.Argument(metavar="DIR", help="A bundle, or a Core ML package (.mlpackage).")],
    against: Annotated[
        Path | None,
        typer.Option("--against", metavar="MODEL", help="The checkpoint; without it the bundle's own proof."),
    ] = None,
    text: Annotated[
        Path | None, typer.Option("--text", metavar="TEXT", help="Text on which to measure the perplexity too.")
    ] = None,
    tokenizer: TokenizerPath = None,
    max_degradation: Annotated[
        float | None,
        typer.Option(
            "--max-degradation",
            help=f"Percent by which the perplexity may be above --against's. Default: {_MAX_DEGRADATION:g}.",
        ),
    ] = None,
    heads: Heads = None,
    ema: Averaged = False,
    target: Target = None,
    engine: Engine = None,
    as_json: Json = False,
) -> None:
    """Prove a bundle again: its files, and its logits against the original's. Exits 1 if they differ."""
    check("max_degradation", max_degradation)
    of_texts = {"--text": text, "--tokenizer": tokenizer, "--max-degradation": max_degradation}
    foreign = [flag for flag, value in of_texts.items() if value is not None]
    if (writer := _writer_of(bundle)) is not None:
        if foreign := [*foreign, *(["--target"] if target is not None else [])]:
            raise InputError(f"{bundle} is no bundle, and {', '.join(foreign)} is for bundles")
        _verify_package(bundle, writer, against, engine, as_json, heads=heads, ema=ema)
        return
    from edgeqkv.bundle.bundle import Bundle

    opened = Bundle(bundle)
    kind = opened.manifest.model.kind
    if kind == "encoder":
        refuse_foreign(f"{bundle} holds", kind, foreign)
    original = open_original(against, opened, heads=heads, ema=ema)
    results: dict[str, Any] = {}
    measured: dict[str, Any] = {}
    with needed_for("verifying"):
        from edgeqkv.cli import summaries
        from edgeqkv.pipeline.quality import QualityGate
        from edgeqkv.pipeline.verify import verify as prove
        from edgeqkv.run.perplexity import excess
    with console.progress() as on_progress:
        gate = None
        if text is not None:
            tokens = open_tokenizer(opened, tokenizer).encode(read_text(text))
            gate = QualityGate(tokens, text.name, original, on_progress)
        for name in [target] if target else opened.targets:
            results[name] = prove(opened, name, against=original, engine=engine, on_progress=on_progress)
            if gate is not None:
                measured[name] = gate.measure(opened.path, opened.target(name).artifact, engine)
    if as_json:
        printed = {
            name: result.model_dump(mode="json")
            | ({"quality": measured[name].model_dump(mode="json")} if name in measured else {})
            for name, result in results.items()
        }
        console.print_json({"bundle": str(bundle), "targets": printed})
    else:
        for name, result in results.items():
            rows: list[tuple[str, object]] = [("verified", summaries.verdict(result, kind))]
            rows += [("perplexity", summaries.perplexity(measured[name]))] if name in measured else []
            console.print_facts(f"{bundle} · {name}", rows)
    wrong = [f"{name}: {result.failure}" for name, result in results.items() if not result.passed]
    problems = [f"{bundle} does not compute what the original does: {each}" for each in wrong]
    most = (_MAX_DEGRADATION if max_degradation is None else max_degradation) / 100
    problems += filter(None, (excess(quality, name, most) for name, quality in measured.items()))
    _fail_if(problems)


def _writer_of(path: Path) -> str | None:
    """The target that writes files of this name which say themselves what they are, if one does."""
    return next((name for name in TARGETS if path.suffix in backend(name).self_describing), None)


def _verify_package(
    path: Path, writer: str, against: Path | None, engine: str | None, as_json: bool, *, heads: int | None, ema: bool
) -> None:
    """A target's file without its bundle: against the original, or on its own."""
    with console.progress() as on_progress:
        from edgeqkv.cli import summaries

        if against is None:
            on_progress(f"running {path.name}", None)
            functions = backend(writer).examine(path)
            facts: dict[str, Any] = {"functions": functions}
            wrong = [
                f"{name} gives results that are not numbers" for name, each in functions.items() if not each["finite"]
            ]
        else:
            original = edgeqkv.load(against, heads=heads, ema=ema)
            from edgeqkv.pipeline.spec import kind_of
            from edgeqkv.pipeline.verify import verify_package

            result = verify_package(path, writer, original, engine, on_progress)
            facts = {"verification": result.model_dump(mode="json")}
            wrong = [] if result.passed else [result.failure]
    if as_json:
        console.print_json({"package": str(path), **facts})
    elif against is not None:
        console.print_facts(str(path), [("verified", summaries.verdict(result, kind_of(original)))])
    else:
        for name, each in functions.items():
            summaries.show_function(f"{path} · {name}", each)
    _fail_if([f"{path}: {'; '.join(wrong)}"] if wrong else [])


def _fail_if(problems: Sequence[str]) -> None:
    """End with the exit code of a failed verification; printed and not raised, so that JSON stays one document."""
    if problems:
        failure = VerificationFailed("; ".join(problems))
        console.print_error(failure)
        raise typer.Exit(failure.exit_code)
