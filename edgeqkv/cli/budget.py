"""``edgeqkv budget``, ``devices`` and ``recipes``."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgeqkv.cli import console
from edgeqkv.cli.options import DeviceNames, DevicesFile, Json
from edgeqkv.disk.files import check_place, write_text
from edgeqkv.model.kinds import refuse_foreign

if TYPE_CHECKING:
    from edgeqkv.budget.devices import Device, Fact, Npu
    from edgeqkv.budget.presets import DevicePreset
    from edgeqkv.bundle.bundle import Bundle

__all__ = ["budget", "devices", "recipes"]


def budget(
    subject: Annotated[Path, typer.Argument(metavar="DIR|MODEL", help="A bundle, or a checkpoint.")],
    device: DeviceNames = None,
    own: DevicesFile = None,
    context: Annotated[
        int | None, typer.Option("--context", help="Tokens. Default: the bundle's, or the model's positions.")
    ] = None,
    measure: Annotated[
        bool, typer.Option("--measure", help="Run the bundle in a process of its own and measure it (Linux).")
    ] = False,
    compare: Annotated[
        Path | None,
        typer.Option("--compare", metavar="FILE", help="A device-report.json of this bundle, to put beside it."),
    ] = None,
    bench: Annotated[
        Path | None,
        typer.Option(
            "--bench", metavar="FILE", help="What 'edgeqkv bench DIR --json' printed, for the measured speed."
        ),
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option("--html", metavar="FILE", help="Write the report as a page, over an older one at most."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Say what the process will take, and whether it fits. Exits 1 if it does not fit on a device asked for."""
    from edgeqkv.budget.encoders import encoder_bundle
    from edgeqkv.budget.evaluate import evaluate
    from edgeqkv.budget.report import lines, to_json

    if (encoder := encoder_bundle(subject)) is not None:
        given = {
            "--context": context,
            "--measure": measure or None,
            "--compare": compare,
            "--bench": bench,
            "--html": html,
        }
        foreign = [flag for flag, value in given.items() if value is not None]
        _budget_encoder(encoder, device or (), own, foreign, as_json)
        return
    read = [each for each in (subject, own, compare, bench) if each is not None]
    if html is not None:
        from edgeqkv.budget.html import GENERATOR

        check_place(html, GENERATOR, read)
    report = evaluate(subject, device or (), context=context, devices=own)
    if measure:
        from edgeqkv.budget.beside import with_measurements

        with console.progress() as on_progress:
            report = with_measurements(report, subject, context, on_progress, console.print_note)
    if compare is not None:
        from edgeqkv.budget.beside import with_device_report

        report = with_device_report(report, subject, context, compare)
    if bench is not None:
        from edgeqkv.budget.speed import read_bench

        report = dataclasses.replace(report, speed=read_bench(bench))
    if html is not None or as_json:
        from edgeqkv.budget.provenance import provenance

        report = dataclasses.replace(report, made=provenance(["edgeqkv", *sys.argv[1:]], subject))
    if html is not None:
        from edgeqkv.budget.html import GENERATOR, render

        write_text(html, render(report), GENERATOR, read)
    if as_json:
        console.print_json(to_json(report))
    else:
        lines(report, console.print_facts, console.print_table, console.print_blank)
    if not report.passed:
        raise typer.Exit(1)


def devices(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="One device, with every source.")] = None,
    own: DevicesFile = None,
    as_json: Json = False,
) -> None:
    """List the catalogue of phones, tablets, boards, wearables and NPUs, or say all that is known of one."""
    from edgeqkv.budget.devices import load_catalogue

    catalogue = load_catalogue(own)
    if name is not None:
        _show_device(catalogue.canonical(name), catalogue.find(name), as_json)
    elif as_json:
        console.print_json(catalogue.model_dump(by_alias=True))
    else:
        console.print_table(
            ("device", "kind", "name", "RAM", "app limit", "NPU"),
            [
                (
                    key,
                    each.kind,
                    each.title,
                    _shown(each.ram_gb, " GB"),
                    _shown(each.process_limit_default_gb, " GB"),
                    each.npu or "not listed",
                )
                for key, each in catalogue.devices.items()
            ]
            + [
                (key, "npu", each.title, "", _shown(each.per_session_limit_gb, " GB"), "")
                for key, each in catalogue.npus.items()
            ],
        )
        console.print_note(
            "~ measured or reported by others; ? unknown: an assumption; no mark: the vendor documents it"
        )


def recipes(as_json: Json = False) -> None:
    """List the recipes: tried choices for an export to a device."""
    from edgeqkv.budget.presets import built_in

    if as_json:
        console.print_json([preset.model_dump() for preset in built_in()])
        return
    console.print_table(
        ("recipe", "export", "for", "why"),
        [(each.name, _asked_for(each), ", ".join(each.devices), each.why) for each in built_in()],
    )


def _budget_encoder(
    bundle: Bundle, device: Sequence[str], own: Path | None, foreign: Sequence[str], as_json: bool
) -> None:
    from edgeqkv.budget.encoders import budget_encoder

    refuse_foreign(f"{bundle.path} holds", "encoder", foreign)
    report = budget_encoder(bundle, device, own)
    if as_json:
        console.print_json(report.to_json())
    else:
        report.lines(console.print_facts, console.print_table)
    if not report.passed:
        raise typer.Exit(1)


def _show_device(name: str, device: Device | Npu, as_json: bool) -> None:
    facts: dict[str, Any] = device.model_dump(by_alias=True)
    if as_json:
        console.print_json({"name": name, **facts})
        return
    rows: list[tuple[str, object]] = []
    for key, fact in facts.items():
        if not isinstance(fact, dict):
            if fact:
                rows.append((key.replace("_", " "), fact))
            continue
        label, unit = _measured_in(key)
        value = "not known" if fact["value"] is None else f"{_plain_value(fact['value'])}{unit}"
        note = f"; {fact['note']}" if fact["note"] else ""
        rows.append((label, f"{value} ({fact['status']}{note})"))
        rows += [("-", source) for source in fact["sources"]]
    console.print_facts(f"{facts['title']} ({name})", rows)


def _asked_for(preset: DevicePreset) -> str:
    """What a recipe chooses, in a line."""
    chunk = f", chunk {preset.chunk}" if preset.chunk else ""
    return f"{preset.target} {preset.form}, {preset.weights} weights, {preset.state} state{chunk}"


def _measured_in(key: str) -> tuple[str, str]:
    """What a field of the catalogue is called, and the unit that its name ends in.

    >>> _measured_in("mem_bandwidth_gbs"), _measured_in("soc")
    (('mem bandwidth', ' GB/s'), ('soc', ''))
    """
    name, _, last = key.rpartition("_")
    unit = {"gb": " GB", "gbs": " GB/s", "mb": " MB"}.get(last)
    return (key.replace("_", " "), "") if unit is None else (name.replace("_", " "), unit)


def _plain_value(value: object) -> str:
    match value:
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:g}"
        case tuple() | list():
            return ", ".join(map(str, value))
        case dict():
            return ", ".join(f"{name}: {each}" for name, each in value.items())
    return str(value)


def _shown(fact: Fact[Any] | None, unit: str) -> str:
    from edgeqkv.budget.sentences import mark

    if fact is None:
        return ""
    return ("not known" if fact.value is None else f"{fact.value:g}{unit}") + mark(fact.status)
