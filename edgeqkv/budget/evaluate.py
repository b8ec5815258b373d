"""From a subject and the names of devices to a report: what is exported or would be, and what each device says."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from edgeqkv.backends import TARGETS, backend, choice, soc_of
from edgeqkv.backends.target import TargetSpec
from edgeqkv.budget.answers import Answer, Candidate, evaluate_on
from edgeqkv.budget.devices import Catalogue, load_catalogue
from edgeqkv.budget.plan import ModelShape, Plan, footprint_of, plan_of
from edgeqkv.budget.presets import Choices, DevicePreset, for_device, load_preset
from edgeqkv.budget.provenance import Provenance, provenance
from edgeqkv.budget.report import Report, to_json
from edgeqkv.budget.verdicts import Verdict
from edgeqkv.bundle.bundle import Bundle, is_bundle
from edgeqkv.bundle.manifest import Artifact, ModelCard
from edgeqkv.extras import needed_for
from edgeqkv.settings import check

if TYPE_CHECKING:
    from edgeqkv.model.model import Model

__all__ = ["choose", "device_names", "evaluate", "evaluate_shape", "write_report"]

REPORT_PAGE: Final = "report.html"
REPORT_DATA: Final = "report.json"

_DEFAULT_CHUNK = 128
_GOOD: Final = (Verdict.FITS, Verdict.TIGHT)


def evaluate(
    subject: Bundle | Model | str | Path,
    device: str | Sequence[str] = (),
    *,
    context: int | None = None,
    devices: Path | None = None,
) -> Report:
    """See `edgeqkv.budget.budget`."""
    catalogue = load_catalogue(devices)
    names = _names(catalogue, [device] if isinstance(device, str) else device)
    opened = _opened(subject)
    if isinstance(opened, Bundle):
        cards = [opened.target(name) for name in opened.targets]
        artifacts = [(card.artifact, card.quantization.head if card.quantization else None) for card in cards]
        shape = ModelShape.of_card(opened.manifest.model)
        return _of_artifacts(
            opened.path, shape, opened.manifest.model, artifacts, _entries(opened), names, catalogue, context
        )
    return evaluate_shape(ModelShape.of_model(opened), opened.source.path.name, names, context=context, devices=devices)


def evaluate_shape(
    shape: ModelShape,
    subject: str,
    device: Sequence[str] = (),
    *,
    context: int | None = None,
    asked: Choices | None = None,
    devices: Path | None = None,
) -> Report:
    """Plan an export of a model that need not exist; ``subject`` is what it is called, ``asked`` what is chosen.

    Raises:
        InputError: a device is unknown, or the context is beyond the model's positions.
    """
    catalogue = load_catalogue(devices)
    asked = asked or Choices(context=context)
    answers = [
        _answer(catalogue, name, candidate)
        for name in _names(catalogue, device)
        for candidate in _offered(shape, asked, name, catalogue)
    ]
    planned = [each.candidate for each in answers] or [_planned(shape, asked, None, catalogue)]
    return _report(catalogue, subject, str(shape.variant), shape.parameters, planned, answers)


def write_report(
    directory: Path,
    card: ModelCard,
    artifacts: Sequence[Artifact],
    tokenizer: int,
    device: Sequence[str],
    devices: Path | None = None,
    shape: ModelShape | None = None,
    head: str | None = None,
) -> Report:
    """Evaluate artifacts in the folder of a bundle in the making, and write ``report.html`` and ``report.json`` there.

    ``tokenizer`` is the number of entries of its vocabulary, 0 without one; ``shape`` the model's own, where it is at
    hand, else what the card says of it; ``head`` the precision of the token table and the head, if it was chosen.
    """
    from edgeqkv.budget.html import render

    catalogue = load_catalogue(devices)
    shape = shape or ModelShape.of_card(card)
    made = [(artifact, head) for artifact in artifacts]
    report = _of_artifacts(directory, shape, card, made, tokenizer, _names(catalogue, device), catalogue)
    report = dataclasses.replace(
        report, subject=str(card.source["file"]), made=_made(directory, artifacts[0].graphs[0].file, device)
    )
    (directory / REPORT_PAGE).write_text(render(report), encoding="utf-8")
    (directory / REPORT_DATA).write_text(json.dumps(to_json(report), indent=2) + "\n", encoding="utf-8")
    return report


def _made(directory: Path, file: str, device: Sequence[str]) -> Provenance:
    """The origin of a report in a bundle: the command that repeats it, and the file that it is of."""
    words = ["edgeqkv", "budget", "DIR", *(word for name in device for word in ("--device", name))]
    return provenance(words, directory / file)


def choose(
    model: Model,
    choices: Choices,
    *,
    preset: str | Path | None = None,
    device: str | None = None,
    devices: Path | None = None,
) -> tuple[Choices, str]:
    """Complete what was asked for by a preset, or by the first of a device's presets that fits; and why.

    Raises:
        InputError: there is no such preset or device.
    """
    shape = ModelShape.of_model(model)
    if preset is not None:
        known = load_preset(preset)
        return choices.over(known, _longest(shape, known)), f"recipe {known.name}: {known.why}"
    if device is None:
        return choices, ""
    catalogue = load_catalogue(devices)
    candidate = _planned(shape, choices, catalogue.canonical(device), catalogue)
    plan = candidate.plan
    chosen = Choices(
        target=plan.target,
        form=plan.form,
        weights=plan.weights,
        state=plan.state,
        context=plan.context,
        chunk=plan.chunk,
        head=choices.head,
        soc=choices.soc or plan.spec.soc,
    )
    return chosen, candidate.why


def _of_artifacts(
    directory: Path,
    shape: ModelShape,
    card: ModelCard,
    artifacts: Sequence[tuple[Artifact, str | None]],
    tokenizer: int,
    names: Sequence[str],
    catalogue: Catalogue,
    context: int | None = None,
) -> Report:
    candidates = [
        _at(
            Candidate(plan, footprint_of(directory, artifact, plan), exported=True, compiled=artifact.compiled), context
        )
        for artifact, head in artifacts
        for plan in [plan_of(shape, artifact, tokenizer, head)]
    ]
    answers = [_answer(catalogue, name, candidate) for name in names for candidate in candidates]
    return _report(catalogue, directory.name, card.variant, card.parameters, candidates, answers)


def _report(
    catalogue: Catalogue,
    subject: str,
    variant: str,
    parameters: int,
    candidates: Sequence[Candidate],
    answers: Sequence[Answer],
) -> Report:
    systems = {catalogue.devices[answer.device].system for answer in answers if answer.device in catalogue.devices}
    return Report(
        subject=subject,
        variant=variant,
        parameters=parameters,
        candidates=tuple(dict.fromkeys(candidates)),
        answers=tuple(answers),
        platform={name: facts for name, facts in catalogue.platform.items() if name in systems},
        generated=catalogue.generated,
    )


def device_names(device: Sequence[str], devices: Path | None = None) -> list[str]:
    """The catalogue's spelling of device names.

    Raises:
        InputError: one is unknown, or the user's own file is wrong.
    """
    return _names(load_catalogue(devices), device)


def _names(catalogue: Catalogue, asked: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(catalogue.canonical(name) for name in asked))


def _entries(bundle: Bundle) -> int:
    return bundle.manifest.tokenizer.size if bundle.manifest.tokenizer else 0


def _opened(subject: Bundle | Model | str | Path) -> Bundle | Model:
    if not isinstance(subject, str | Path):
        return subject
    path = Path(subject)
    if is_bundle(path):
        return Bundle(path)
    with needed_for("reading a checkpoint"):
        from edgeqkv import checkpoints
        from edgeqkv.model.model import language_model

    return language_model(checkpoints.load(path), "a memory budget without an export")


def _at(candidate: Candidate, context: int | None) -> Candidate:
    """The candidate with another context, which its model must have the positions for."""
    if context is None:
        return candidate
    _check_context(context, candidate.plan.shape.positions)
    plan = candidate.at_plan(context)
    return dataclasses.replace(candidate, plan=plan, footprint=candidate.at(context))


def _check_context(context: int, positions: int) -> None:
    check("context", context, positions, f": the model was trained for {positions} positions")


def _offered(shape: ModelShape, choices: Choices, device: str, catalogue: Catalogue) -> list[Candidate]:
    """What would be exported for a device, and beside it, for a phone with an NPU that a recipe compiles for, that."""
    first = _planned(shape, choices, device, catalogue)
    compiling = [each for each in for_device(device) if each.soc is not None and each.target != first.plan.target]
    if not compiling or choices.target is not None:
        return [first]
    preset = compiling[0]
    beside = choices.over(preset, _longest(shape, preset))
    return [first, _candidate(shape, beside, f"for the NPU: recipe {preset.name}: {preset.why}")]


def _planned(shape: ModelShape, choices: Choices, device: str | None, catalogue: Catalogue) -> Candidate:
    """What would be exported for a device: by its first preset that fits, or with the target's defaults."""
    options = [
        _candidate(shape, choices.over(preset, _longest(shape, preset)), f"recipe {preset.name}: {preset.why}")
        for preset in (for_device(device) if device else ())
        if choices.target in (None, preset.target)
    ]
    if device is None or not options:
        return _candidate(shape, choices, f"no recipe is for {device}: the target's defaults" if device else "")
    fitting = (each for each in options if _answer(catalogue, device, each).verdict in _GOOD)
    first = options[0]
    return next(fitting, dataclasses.replace(first, why=f"{first.why} (No recipe is known to fit: this is the first.)"))


def _longest(shape: ModelShape, preset: DevicePreset) -> int:
    """The longest context that a preset may choose; one that chooses none gets the model's default."""
    return shape.positions if preset.context else shape.default_context


def _candidate(shape: ModelShape, choices: Choices, why: str) -> Candidate:
    target = backend(choices.target or TARGETS[0])
    context = shape.default_context if choices.context is None else choices.context
    _check_context(context, shape.positions)
    spec = TargetSpec(
        form=choice(target, "form", choices.form),
        weights=choice(target, "weights", choices.weights),
        state=choice(target, "state", choices.state),
        context=context,
        chunk=choices.chunk or min(_DEFAULT_CHUNK, context),
        head=choices.head and choice(target, "weights", choices.head),
        soc=soc_of(target, choices.soc),
    )
    return Candidate.planned(Plan(shape, target.name, spec), why=why)


def _answer(catalogue: Catalogue, name: str, candidate: Candidate) -> Answer:
    return evaluate_on(name, catalogue.find(name), catalogue.npus, candidate)
