"""``edgeqkv convert``."""

from __future__ import annotations

import time
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import edgeqkv
from edgeqkv.cli import completion, console
from edgeqkv.cli.options import CheckpointPath, Json
from edgeqkv.cli.summaries import perplexity
from edgeqkv.convert import BATCH, WINDOWS
from edgeqkv.errors import InputError
from edgeqkv.extras import needed_for
from edgeqkv.units import byte_count, duration

if TYPE_CHECKING:
    from edgeqkv.bundle.manifest import Quality
    from edgeqkv.model.model import Model
    from edgeqkv.pipeline.conversion import Converted
    from edgeqkv.pipeline.distillation import Amount

__all__ = ["convert"]


def convert(
    model: CheckpointPath,
    to: Annotated[
        str,
        typer.Option(
            "--to",
            metavar="VARIANT",
            help="q-k=v or qkv, with +gqaN or +mqa if you like.",
            autocompletion=completion.variants,
        ),
    ],
    calibrate: Annotated[
        Path,
        typer.Option(
            "--calibrate",
            metavar="TEXT",
            help="Text like those that the model is for: a file, or dataset:NAME of Hugging Face's datasets.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The checkpoint to write: .pt, or .safetensors.")],
    tokenizer: Annotated[
        Path | None, typer.Option("--tokenizer", help="The model's tokenizer.json. Default: one beside MODEL.")
    ] = None,
    text: Annotated[
        Path | None,
        typer.Option("--text", metavar="TEXT", help="Text on which to measure the perplexity before and after."),
    ] = None,
    max_degradation: Annotated[
        float | None,
        typer.Option(
            "--max-degradation",
            help="Percent by which the perplexity on --text may rise; if it rises by more, nothing is written.",
        ),
    ] = None,
    windows: Annotated[
        int, typer.Option("--windows", help="Pieces of 512 tokens of the text that are looked at.")
    ] = WINDOWS,
    layers: Annotated[
        str | None,
        typer.Option(
            "--layers",
            metavar="0-5,8|auto",
            help="Layers to convert; auto leaves those that lose most as they are. Default: all.",
        ),
    ] = None,
    state_budget: Annotated[
        str | None,
        typer.Option(
            "--state-budget",
            metavar="SIZE",
            help="What the state of all positions may take in fp16, such as 8MiB: no more layers are converted.",
        ),
    ] = None,
    memory: Annotated[
        str | None,
        typer.Option(
            "--memory",
            metavar="SIZE",
            help="What conversion may keep in memory, such as 500MB; the rest goes to a temporary file.",
        ),
    ] = None,
    distill: Annotated[
        str | None,
        typer.Option(
            "--distill",
            metavar="STEPS|TOKENS",
            help="Then train it to predict as the original does, for so many steps (200), or tokens with K, M or B "
            "(1M); taken if that helps. In several processes: accelerate launch -m edgeqkv convert …",
        ),
    ] = None,
    distill_batch: Annotated[
        int, typer.Option("--distill-batch", help="Windows of 512 tokens that a step compares, in all processes.")
    ] = BATCH,
    distill_for: Annotated[
        str | None,
        typer.Option(
            "--distill-for",
            metavar="PRECISIONS",
            help="Have it learn with what an export rounds: int4 or int8 (weights), int8-state, or both with a comma.",
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", "-f", help="Replace a file at --out.")] = False,
    as_json: Json = False,
) -> None:
    """Make an ordinary model share keys and values, or heads, without training it."""
    started = time.perf_counter()
    with needed_for("conversion"):
        from edgeqkv.convert.choice import parse_layers
        from edgeqkv.convert.processes import follows
        from edgeqkv.pipeline.conversion import ConvertSpec, run_convert
        from edgeqkv.pipeline.distillation import gathered
        from edgeqkv.pipeline.spec import tokenizer_beside

    if follows():
        if distill is not None:
            _follow(model, calibrate, tokenizer)
        return
    goes_on = "" if distill is None else "; the same command goes on with the distillation from where it was"
    with (
        gathered() if distill is not None else nullcontext() as others,  # before anything can fail
        console.says_if_stopped(lambda: f"nothing was written to {out}{goes_on}"),
        console.progress() as on_progress,
    ):
        loaded = edgeqkv.load(model)
        spec = ConvertSpec(
            variant=to,
            calibrate=calibrate,
            out=out,
            tokenizer=tokenizer_beside(loaded) if tokenizer is None else tokenizer,
            text=text,
            max_degradation=None if max_degradation is None else max_degradation / 100,
            windows=windows,
            layers=None if layers in (None, "auto") else parse_layers(str(layers)),
            auto=layers == "auto" or (layers is None and state_budget is not None),
            state_budget=None if state_budget is None else byte_count(state_budget, "--state-budget"),
            memory=None if memory is None else byte_count(memory, "--memory"),
            distill=_amount(distill, distill_batch, distill_for),
            overwrite=force,
        )
        converted = run_convert(loaded, spec, on_progress, others)
    facts = _facts(loaded, converted)
    if as_json:
        console.print_json(facts)
    else:
        _show(facts, converted.quality, time.perf_counter() - started)


def _amount(distill: str | None, batch: int, rounded: str | None) -> Amount | None:
    from edgeqkv.convert.rounding import Rounding
    from edgeqkv.pipeline.distillation import Amount

    if distill is None:
        if rounded is not None:
            raise InputError("--distill-for says how to distil; say how much, with --distill")
        return None
    return Amount.parse(distill, batch, None if rounded is None else Rounding.parse(rounded))


def _follow(checkpoint: Path, calibrate: Path, tokenizer: Path | None) -> None:
    """Be one of the processes that distil with the first one, which says all that is to be said.

    Its checks are not made here again: until it has made them, nothing is read. What fails afterwards is of this
    process alone, and told.
    """
    from edgeqkv.convert.processes import LostProcess
    from edgeqkv.pipeline.distillation import follow

    try:
        done = follow(lambda: edgeqkv.load(checkpoint), calibrate, tokenizer)
    except (LostProcess, KeyboardInterrupt, SystemExit):  # told where it happened
        done = False
    if not done:
        raise typer.Exit(2)


def _facts(original: Model, converted: Converted) -> dict[str, Any]:
    """What became of a model, as JSON values; sizes are in bytes, in fp16."""
    from edgeqkv.model.dtypes import Dtype

    model, quality, distillation = converted.conversion.model, converted.quality, converted.distillation
    bytes_of = Dtype.FP16.bytes
    return {
        "file": str(converted.path),
        "variant": {"before": original.described, "after": model.described},
        "layers": list(converted.conversion.layers),
        "state_bytes_per_token": {
            "before": original.state_bytes(1, bytes_of),
            "after": model.state_bytes(1, bytes_of),
        },
        "lost": list(converted.conversion.lost),
        "distillation": None
        if distillation is None
        else {"before": distillation.before, "after": distillation.after, "taken": distillation.taken},
        "quality": None if quality is None else {**quality.model_dump(mode="json"), "degradation": quality.degradation},
    }


def _show(facts: dict[str, Any], quality: Quality | None, seconds: float) -> None:
    state, variant = facts["state_bytes_per_token"], facts["variant"]
    rows = [
        ("variant", f"{variant['before']} → {variant['after']}"),
        (
            "KV state",
            f"{state['after']:,} bytes a token in fp16, {1 - state['after'] / state['before']:.1%} less than "
            f"{state['before']:,}",
        ),
        ("lost", f"{_lost(facts['lost'], facts['layers'])} of what counts, layer by layer"),
        *_distilled(facts["distillation"]),
        ("perplexity", "not measured (--text TEXT does)" if quality is None else perplexity(quality)),
    ]
    console.print_facts(f"{facts['file']} written in {duration(seconds)}", rows)


def _lost(parts: list[float | None], layers: list[int]) -> str:
    """What each layer loses, and in brackets what those would that were left as they were."""
    told = ["–" if part is None else f"{part:.1%}" for part in parts]
    return ", ".join(each if layer in layers or each == "–" else f"({each})" for layer, each in enumerate(told))


def _distilled(facts: dict[str, Any] | None) -> list[tuple[str, str]]:
    if facts is None:
        return []
    said = f"perplexity on text that it did not see {facts['before']:.3f} → {facts['after']:.3f}"
    return [("distilled", said if facts["taken"] else f"no: {said}, so that the closed form is kept")]
