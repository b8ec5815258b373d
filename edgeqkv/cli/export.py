"""``edgeqkv export``."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import edgeqkv
from edgeqkv.cli import completion, console
from edgeqkv.cli.command import ENCODERS, OUTPUT, PRECISION, QUALITY, RARE, TARGET
from edgeqkv.cli.options import (
    Averaged,
    CheckpointPath,
    DeviceNames,
    DevicesFile,
    Eos,
    Heads,
    Json,
    PresetName,
    TargetNames,
    numbers,
    split,
)
from edgeqkv.disk.workplace import temporary_files_together
from edgeqkv.extras import needed_for

if TYPE_CHECKING:
    from edgeqkv.pipeline.spec import ResolvedExport

__all__ = ["export"]


def export(
    model: CheckpointPath,
    target: TargetNames = None,
    form: Annotated[
        str | None,
        typer.Option(
            "--form",
            metavar="NAME",
            help="Form of the graph: TAB lists them, docs/ explains. Ethos-U85's int8 is experimental.",
            autocompletion=completion.forms,
            rich_help_panel=TARGET,
        ),
    ] = None,
    device: DeviceNames = None,
    recipe: PresetName = None,
    weights: Annotated[
        str | None,
        typer.Option(
            "--weights",
            metavar="NAME",
            help="int4, int8, fp16, fp32, lut4. Default: the target's.",
            autocompletion=completion.weights,
            rich_help_panel=PRECISION,
        ),
    ] = None,
    state: Annotated[
        str | None,
        typer.Option(
            "--state",
            metavar="NAME",
            help="KV state: fp32, fp16, int8. Default: the target's.",
            autocompletion=completion.states,
            rich_help_panel=PRECISION,
        ),
    ] = None,
    context: Annotated[
        int | None,
        typer.Option(
            "--context",
            metavar="TOKENS",
            help="Room of the state. Default: the model's, at most 2048.",
            rich_help_panel=PRECISION,
        ),
    ] = None,
    chunk: Annotated[
        int | None,
        typer.Option(
            "--chunk",
            metavar="TOKENS",
            help="Most tokens of a prefill call. Default: 128.",
            rich_help_panel=PRECISION,
        ),
    ] = None,
    calibrate: Annotated[
        Path | None,
        typer.Option(
            "--calibrate", metavar="TEXT", help="Text on which to calibrate the quantization.", rich_help_panel=QUALITY
        ),
    ] = None,
    text: Annotated[
        Path | None,
        typer.Option(
            "--text", metavar="TEXT", help="Text on which to measure the perplexity.", rich_help_panel=QUALITY
        ),
    ] = None,
    max_degradation: Annotated[
        float | None,
        typer.Option(
            "--max-degradation",
            metavar="PERCENT",
            help="By how much that may rise. Default: 3.",
            rich_help_panel=QUALITY,
        ),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Take the calibrated weights that a try before kept.", rich_help_panel=QUALITY),
    ] = False,
    variant: Annotated[
        str | None,
        typer.Option(
            "--variant",
            metavar="NAME",
            help="A claim to be checked, such as q-k=v+gqa4. Default: what the weights say.",
            autocompletion=completion.variants,
            rich_help_panel=RARE,
        ),
    ] = None,
    allow_longer: Annotated[
        bool,
        typer.Option(
            "--allow-longer",
            help="Let --context be longer than what the model was trained for.",
            rich_help_panel=RARE,
        ),
    ] = False,
    keep_head: Annotated[
        str | None,
        typer.Option(
            "--keep-head",
            metavar="NAME",
            help="Precision of token table and head, if it is to differ: int8, fp16, fp32.",
            autocompletion=completion.weights,
            rich_help_panel=RARE,
        ),
    ] = None,
    block: Annotated[
        int | None,
        typer.Option(
            "--block",
            metavar="COLUMNS",
            help="int4: columns that share a scale, 32, 64 or 128. Default: 32.",
            rich_help_panel=RARE,
        ),
    ] = None,
    tune: Annotated[
        int | None,
        typer.Option(
            "--tune",
            metavar="STEPS",
            help="Steps of tuning after --calibrate. Default: 300 for int4 of at most 10 M parameters (a minute or two "
            "for 1 M, a quarter of an hour for 10 M), else 0.",
            rich_help_panel=RARE,
        ),
    ] = None,
    soc: Annotated[
        str | None,
        typer.Option(
            "--soc",
            metavar="NAME",
            help="What to compile for. Hexagon: v73, v75, v79, v81. Ethos-U85: 128, 256, 512, 1024, 2048 (MACs). "
            "Default: the recipe's, or v75 and 256.",
            rich_help_panel=RARE,
        ),
    ] = None,
    memory_mode: Annotated[
        str | None,
        typer.Option(
            "--memory-mode",
            metavar="NAME",
            help="Ethos-U85: where weights and working data lie, as Vela calls it. Default: Sram_Only.",
            rich_help_panel=RARE,
        ),
    ] = None,
    system_config: Annotated[
        str | None,
        typer.Option(
            "--system-config",
            metavar="NAME",
            help="Ethos-U85: what the memories are, as Vela calls it. Default: Ethos_U85_SYS_DRAM_Mid.",
            rich_help_panel=RARE,
        ),
    ] = None,
    eos: Eos = None,
    own_devices: DevicesFile = None,
    allow_fp16_overflow: Annotated[
        bool,
        typer.Option(
            "--allow-fp16-overflow",
            help="Core ML: write it even if activations are beyond fp16, the largest being 65504.",
            rich_help_panel=RARE,
        ),
    ] = False,
    heads: Heads = None,
    ema: Averaged = False,
    batch: Annotated[
        int | None,
        typer.Option("--batch", metavar="N", help="Inputs that a call takes. Default: 1.", rich_help_panel=ENCODERS),
    ] = None,
    image_input: Annotated[
        bool,
        typer.Option(
            "--image-input",
            help="Core ML: take an image and normalize it in the graph.",
            rich_help_panel=ENCODERS,
        ),
    ] = False,
    mean: Annotated[
        str | None,
        typer.Option(
            "--mean",
            metavar="NUMBERS",
            help="What was subtracted from pixels of 0 to 1, with commas.",
            rich_help_panel=ENCODERS,
        ),
    ] = None,
    std: Annotated[
        str | None,
        typer.Option(
            "--std",
            metavar="NUMBERS",
            help="What the difference was divided by, with commas.",
            rich_help_panel=ENCODERS,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", metavar="DIR", help="The folder to write. Default: build/NAME.", rich_help_panel=OUTPUT
        ),
    ] = None,
    tokenizer: Annotated[
        Path | None,
        typer.Option(
            "--tokenizer",
            metavar="FILE",
            help="tokenizer.json to put in. Default: one beside MODEL.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    verify: Annotated[
        bool,
        typer.Option("--verify/--no-verify", help="Prove it first.", show_default=False, rich_help_panel=OUTPUT),
    ] = True,
    force: Annotated[
        bool,
        typer.Option("--force", "-f", help="Replace a bundle at --out, nothing else.", rich_help_panel=OUTPUT),
    ] = False,
    as_json: Json = False,
) -> None:
    """Write MODEL as a bundle for one or more targets, and prove it."""
    started = time.perf_counter()
    loaded = edgeqkv.load(model, heads=heads, ema=ema)
    with needed_for("exporting"):
        from edgeqkv.pipeline.export import run_export
        from edgeqkv.pipeline.spec import ExportSpec, tokenizer_beside
    from edgeqkv.cli.summaries import show_bundle

    found = tokenizer_beside(loaded) if tokenizer is None else None
    if found is not None:
        console.print_note(f"tokenizer: {found}, which lies beside the model")
    spec = ExportSpec(
        targets=split(target),
        variant=variant,
        form=form,
        weights=weights,
        state=state,
        context=context,
        allow_longer=allow_longer or None,
        chunk=chunk,
        batch=batch,
        head=keep_head,
        block=block,
        tokenizer=tokenizer or found,
        eos=None if eos is None else tuple(eos),
        calibrate=calibrate,
        tune=tune,
        resume=resume or None,
        text=text,
        max_degradation=None if max_degradation is None else max_degradation / 100,
        image_input=image_input or None,
        mean=numbers(mean, "--mean"),
        std=numbers(std, "--std"),
        preset=recipe,
        soc=soc,
        memory_mode=memory_mode,
        system_config=system_config,
        devices=None if device is None else tuple(device),
        own_devices=own_devices,
        allow_fp16_overflow=allow_fp16_overflow,
        verify=verify,
        out=out,
        overwrite=force,
    )
    resolved = spec.resolve(loaded)
    for note in (*resolved.reasons, *resolved.notes):
        console.print_note(note)
    with (
        console.says_if_stopped(lambda: _left(resolved)),
        console.progress() as on_progress,
        temporary_files_together(),
    ):
        bundle = run_export(loaded, resolved, on_progress)
    if as_json:
        console.print_json({"bundle": str(bundle.path), **bundle.manifest.model_dump(mode="json")})
    else:
        show_bundle(bundle, time.perf_counter() - started)


def _left(resolved: ResolvedExport) -> str:
    """What an export leaves that was stopped."""
    from edgeqkv.quantize.kept import place

    is_there = resolved.out.exists()
    bundle = f"{resolved.out} is as it was" if is_there else f"no bundle was written to {resolved.out}"
    kept = place(resolved.out)
    if resolved.calibrate is None or not kept.exists():
        return f"{bundle}, and nothing else is left"
    return f"{bundle}. The calibrated weights are kept in {kept}: the same command with --resume starts from them"
