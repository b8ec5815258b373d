"""The command line's part of the budget: ``budget``, ``devices`` and ``recipes``, and what ``export`` asks for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgeqkv.cli import console
from edgeqkv.errors import InputError

if TYPE_CHECKING:
    from edgeqkv.budget.devices import Device, Fact, Npu
    from edgeqkv.budget.recipes import Choices
    from edgeqkv.budget.report import Report
    from edgeqkv.bundle.bundle import Bundle
    from edgeqkv.model.model import Model

__all__ = ["DeviceNames", "DevicesFile", "RecipeName", "complete", "register"]

DeviceNames = Annotated[
    list[str] | None,
    typer.Option("--device", "-d", metavar="NAME", help="A device of the catalogue ('edgeqkv devices'); may repeat."),
]
DevicesFile = Annotated[
    Path | None, typer.Option("--devices", metavar="FILE", help="YAML with devices of your own; see docs/budget.md.")
]
RecipeName = Annotated[
    str | None, typer.Option("--recipe", metavar="NAME|FILE", help="A recipe ('edgeqkv recipes'); options override it.")
]
_Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (budget, devices, recipes):
        app.command()(command)


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
    html: Annotated[Path | None, typer.Option("--html", metavar="FILE", help="Write the report as a page.")] = None,
    as_json: _Json = False,
) -> None:
    """Say what the process will take, and whether it fits. Exits 1 if it does not fit on a device asked for."""
    from edgeqkv.budget.encoders import encoder_bundle
    from edgeqkv.budget.judging import judge
    from edgeqkv.budget.report import lines, to_json

    if (encoder := encoder_bundle(subject)) is not None:
        given = {"--context": context, "--measure": measure, "--compare": compare, "--html": html}
        _budget_encoder(encoder, device or (), own, given, as_json)
        return
    report = judge(subject, device or (), context=context, devices=own)
    if measure:
        report = _measured(report, subject, context)
    if compare is not None:
        report = _compared(report, subject, context, compare)
    if html is not None:
        from edgeqkv.budget.html import render

        _write(html, render(report))
    if as_json:
        console.print_json(to_json(report))
    else:
        lines(report, console.print_facts, console.print_table, typer.echo)
    if not report.passed:
        raise typer.Exit(1)


def devices(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="One device, with every source.")] = None,
    own: DevicesFile = None,
    as_json: _Json = False,
) -> None:
    """List the catalogue of phones, tablets, boards and NPUs, or say all that is known of one."""
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
                    each.npu or "none",
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


def recipes(as_json: _Json = False) -> None:
    """List the recipes: tried choices for an export to a device."""
    from edgeqkv.budget.recipes import built_in

    if as_json:
        console.print_json([recipe.model_dump() for recipe in built_in()])
        return
    console.print_table(
        ("recipe", "target", "form", "weights", "state", "chunk", "for", "why"),
        [
            (r.name, r.target, r.form, r.weights, r.state, r.chunk or "", ", ".join(r.devices), r.why)
            for r in built_in()
        ],
    )


def complete(
    model: Model,
    targets: Sequence[str] | None,
    choices: Choices,
    recipe: str | None,
    device: Sequence[str],
    own: Path | None,
) -> tuple[list[str], Choices]:
    """The targets and choices of an export, completed by a recipe where one or a device was named.

    Raises:
        InputError: a recipe is for one target and several were asked for.
    """
    import dataclasses

    from edgeqkv.budget.judging import choose

    named = list(targets or [])
    if recipe is None and not device:
        return named or ["onnx"], choices
    if len(named) > 1:
        raise InputError(f"a recipe is for one target, and {', '.join(named)} were asked for; leave out --target")
    asked = dataclasses.replace(choices, target=named[0] if named else None)
    chosen, why = choose(model, asked, recipe=recipe, device=device[0] if device else None, devices=own)
    console.print_note(why)
    return [chosen.target or "onnx"], chosen


def _budget_encoder(
    bundle: Bundle, device: Sequence[str], own: Path | None, given: Mapping[str, object], as_json: bool
) -> None:
    from edgeqkv.budget.encoders import budget_encoder

    if foreign := [name for name, value in given.items() if value]:
        raise InputError(f"{bundle.path} holds an encoder, and {', '.join(foreign)} is for language models")
    report = budget_encoder(bundle, device, own)
    if as_json:
        console.print_json(report.to_json())
    else:
        report.lines(console.print_facts, console.print_table)
    if not report.passed:
        raise typer.Exit(1)


def _measured(report: Report, subject: Path, context: int | None) -> Report:
    from edgeqkv.budget.measure import compare, measurable, measure
    from edgeqkv.bundle.bundle import Bundle

    if context is not None:
        raise InputError("--measure runs the bundle at the context it was exported for; leave out --context")
    if not subject.is_dir():
        raise InputError(f"--measure runs an export; {subject} is a checkpoint. Export it first")
    bundle = Bundle(subject, check=False)
    by_target = {candidate.plan.target: candidate.footprint for candidate in report.candidates}
    with console.progress() as tell:
        for target, predicted in by_target.items():
            if not measurable(target) and len(by_target) > 1:
                console.print_note(f"{target} is not measured: its runtime does not run on Linux")
                continue
            tell(f"measuring {target}", None)
            measurement = measure(bundle.path, bundle.target(target).artifact, bundle.tokenizer_path)
            report = report.with_measured(target, measurement, compare(predicted, measurement, target))
    return report


def _compared(report: Report, subject: Path, context: int | None, file: Path) -> Report:
    import dataclasses

    from edgeqkv.budget.device_comparison import compare_device
    from edgeqkv.budget.device_report import check_bundle, read_device_report
    from edgeqkv.bundle.bundle import Bundle

    if context is not None:
        raise InputError("--compare is with the context that the bundle was exported for; leave out --context")
    if not subject.is_dir():
        raise InputError(f"--compare is with the bundle that was on the device; {subject} is a checkpoint")
    if len({answer.device for answer in report.answers}) > 1 or any(answer.kind == "npu" for answer in report.answers):
        raise InputError("a device report is of one phone, tablet or board; name that one alone with --device")
    told = read_device_report(file)
    check_bundle(told, Bundle(subject, check=False))
    candidate = next(each for each in report.candidates if each.plan.target == told.target)
    answer = next((each for each in report.answers if each.candidate.plan.target == told.target), None)
    compared = compare_device(candidate.footprint, candidate.plan.context, told, answer)
    return dataclasses.replace(report, on_device=compared)


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}") from error


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
        value = "not known" if fact["value"] is None else fact["value"]
        note = f"; {fact['note']}" if fact["note"] else ""
        rows.append((key.replace("_", " "), f"{value} ({fact['status']}{note})"))
        rows += [("-", source) for source in fact["sources"]]
    console.print_facts(f"{facts['title']} ({name})", rows)


def _shown(fact: Fact[Any] | None, unit: str) -> str:
    from edgeqkv.budget.report import mark

    if fact is None:
        return ""
    return ("not known" if fact.value is None else f"{fact.value:g}{unit}") + mark(fact.status)
