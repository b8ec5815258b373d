"""``edgeqkv export``."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

import edgeqkv
from edgeqkv.cli import console
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

__all__ = ["export"]


def export(
    model: CheckpointPath,
    target: TargetNames = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="The folder to write. Default: build/NAME of the model."),
    ] = None,
    variant: Annotated[
        str | None,
        typer.Option("--variant", help="A claim to be checked, such as qk_v+gqa4. Default: detected."),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            "--weights",
            help="Precision of the stored weights: int4, int8, fp16, fp32 or, where a target has it, lut4. Default: "
            "the target's.",
        ),
    ] = None,
    state: Annotated[
        str | None, typer.Option("--state", help="Precision of the KV state: fp32, fp16, int8. Default: the target's.")
    ] = None,
    context: Annotated[
        int | None,
        typer.Option(
            "--context",
            help="Tokens the state has room for. Default: the model's positions, at most 2048 where they are computed.",
        ),
    ] = None,
    allow_longer: Annotated[
        bool,
        typer.Option("--allow-longer", help="Let --context be longer than what the model was trained for."),
    ] = False,
    chunk: Annotated[
        int | None,
        typer.Option("--chunk", help="Most tokens of a prefill call. Default: 128, or the context if less."),
    ] = None,
    form: Annotated[
        str | None, typer.Option("--form", help="Form of the graph; see the target's page in docs/.")
    ] = None,
    tokenizer: Annotated[
        Path | None,
        typer.Option("--tokenizer", help="tokenizer.json to put into the bundle. Default: one beside MODEL."),
    ] = None,
    eos: Eos = None,
    keep_head: Annotated[
        str | None,
        typer.Option("--keep-head", help="Precision of token table and head, if it is to differ: int8, fp16, fp32."),
    ] = None,
    calibrate: Annotated[
        Path | None, typer.Option("--calibrate", metavar="TEXT", help="Text on which to calibrate the quantization.")
    ] = None,
    tune: Annotated[
        int | None,
        typer.Option(
            "--tune",
            metavar="STEPS",
            help="Steps of tuning after --calibrate. Default: 300 for int4 of at most 10 M parameters (a minute or two "
            "for 1 M, a quarter of an hour for 10 M), else 0.",
        ),
    ] = None,
    text: Annotated[
        Path | None, typer.Option("--text", metavar="TEXT", help="Text on which to measure the perplexity.")
    ] = None,
    max_degradation: Annotated[
        float | None,
        typer.Option(
            "--max-degradation",
            help="Percent by which the perplexity on --text may rise. Default: 3.",
        ),
    ] = None,
    heads: Heads = None,
    ema: Averaged = False,
    batch: Annotated[
        int | None, typer.Option("--batch", help="Encoders: inputs that a call takes. Default: 1.")
    ] = None,
    image_input: Annotated[
        bool, typer.Option("--image-input", help="Encoders, Core ML: take an image and normalize it in the graph.")
    ] = False,
    mean: Annotated[
        str | None, typer.Option("--mean", help="Encoders: what was subtracted from pixels of 0 to 1, with commas.")
    ] = None,
    std: Annotated[
        str | None, typer.Option("--std", help="Encoders: what the difference was divided by, with commas.")
    ] = None,
    soc: Annotated[
        str | None,
        typer.Option("--soc", help="Hexagon: what to compile for: v73, v75, v79, v81. Default: the recipe's, or v75."),
    ] = None,
    recipe: PresetName = None,
    device: DeviceNames = None,
    own_devices: DevicesFile = None,
    allow_fp16_overflow: Annotated[
        bool,
        typer.Option(
            "--allow-fp16-overflow",
            help="Core ML: write it even if activations are beyond fp16, the largest being 65504.",
        ),
    ] = False,
    verify: Annotated[
        bool, typer.Option("--verify/--no-verify", help="Prove the result before it is called done.")
    ] = True,
    force: Annotated[
        bool, typer.Option("--force", "-f", help="Replace a bundle at --out, and nothing else that is there.")
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
        tokenizer=tokenizer or found,
        eos=None if eos is None else tuple(eos),
        calibrate=calibrate,
        tune=tune,
        text=text,
        max_degradation=None if max_degradation is None else max_degradation / 100,
        image_input=image_input or None,
        mean=numbers(mean, "--mean"),
        std=numbers(std, "--std"),
        preset=recipe,
        soc=soc,
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
    with console.progress() as on_progress, temporary_files_together():
        bundle = run_export(loaded, resolved, on_progress)
    if as_json:
        console.print_json({"bundle": str(bundle.path), **bundle.manifest.model_dump(mode="json")})
    else:
        show_bundle(bundle, time.perf_counter() - started)
