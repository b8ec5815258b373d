"""Bundles side by side: what they take, how good they are, how fast, and where they fit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from edgeqkv.budget.encoders import budget_encoder
from edgeqkv.budget.evaluate import evaluate
from edgeqkv.bundle.bundle import Bundle
from edgeqkv.bundle.manifest import Quality, TargetCard, Verification
from edgeqkv.errors import InputError
from edgeqkv.pipeline.bench import BenchResult
from edgeqkv.units import amount

__all__ = ["Compared", "Fit", "Row", "compare_bundles", "notes_of", "page", "rows_of"]

_FOLDER: Final = Path(__file__).parent
_TEMPLATE: Final = "comparison.html.j2"


@dataclass(frozen=True)
class Fit:
    """What a device says of an export's memory; ``limit_bytes`` is None where nobody knows it."""

    verdict: str
    limit_bytes: int | None
    status: str


@dataclass(frozen=True)
class Compared:
    """One target of one bundle.

    Attributes:
        name: what tells it from the others.
        bundle: the folder.
        target, form, weights, state, context, chunk, variant, parameters: what it is.
        file_bytes: of the files that its runtime opens.
        state_bytes: of the KV state; 0 without one.
        peak_bytes: the most that a process is predicted to take, and ``peak_assumed``, whether an assumption is in it.
        verification: how it compares with the original; None if it was not verified.
        quality: its perplexity on a text; None if it was not measured.
        speed: what was measured here; None if it was not.
        devices: name of a device → what it says.
    """

    name: str
    bundle: str
    target: str
    form: str
    weights: str
    state: str | None
    context: int | None
    chunk: int | None
    variant: str
    parameters: int
    file_bytes: int
    state_bytes: int
    peak_bytes: int
    peak_assumed: bool
    verification: Verification | None
    quality: Quality | None
    speed: BenchResult | None = None
    devices: Mapping[str, Fit] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As JSON values; sizes are in bytes."""
        values = {name: value for name, value in vars(self).items() if name not in ("devices",)}
        for name in ("verification", "quality", "speed"):
            values[name] = None if values[name] is None else values[name].model_dump(mode="json")
        if self.quality is not None:
            values["quality"]["degradation"] = self.quality.degradation
        return {**values, "devices": {name: asdict(fit) for name, fit in self.devices.items()}}


@dataclass(frozen=True)
class Row:
    """A row of the comparison: what is compared, in words for each, and which of them are best (by their places)."""

    name: str
    cells: tuple[str, ...]
    best: frozenset[int] = frozenset()


def compare_bundles(
    bundles: Sequence[Bundle],
    device: Sequence[str] = (),
    devices: Path | None = None,
    speeds: Sequence[BenchResult] = (),
) -> tuple[Compared, ...]:
    """Put every target of every bundle beside the others.

    Args:
        bundles: two targets of them at least.
        device: names of the catalogue, whose verdicts are wanted.
        devices: a file of the user's own devices.
        speeds: what was measured of them (`edgeqkv.bench`).

    Raises:
        InputError: there is but one thing to compare, one is named twice, or a device is unknown.
    """
    paths = [bundle.path.resolve() for bundle in bundles]
    if twice := next((path for path in paths if paths.count(path) > 1), None):
        raise InputError(f"{twice} is named twice; name each bundle once")
    measured = {(each.bundle, each.target): each for each in speeds}
    names = _names(bundles)
    rows = []
    for bundle in bundles:
        fits, peaks = _budget(bundle, device, devices)
        for target in bundle.targets:
            card = bundle.target(target)
            peak, assumed = peaks[target]
            rows.append(
                Compared(
                    name=names[bundle.path, target],
                    bundle=str(bundle.path),
                    target=target,
                    form=card.artifact.form,
                    weights=card.artifact.weights,
                    state=card.artifact.state,
                    context=card.artifact.context,
                    chunk=card.artifact.chunk,
                    variant=bundle.manifest.model.variant,
                    parameters=bundle.manifest.model.parameters,
                    file_bytes=_file_bytes(bundle, card),
                    state_bytes=card.artifact.state_bytes,
                    peak_bytes=peak,
                    peak_assumed=assumed,
                    verification=card.verification,
                    quality=card.quality,
                    speed=measured.get((str(bundle.path), target)),
                    devices=fits[target],
                )
            )
    if len(rows) < 2:
        raise InputError(f"{bundles[0].path} holds one target, and there is nothing to compare it with; name another")
    return tuple(rows)


def _names(bundles: Sequence[Bundle]) -> dict[tuple[Path, str], str]:
    """The folder's name, or its path where two are called alike; with the target where there are several."""
    short = [bundle.path.resolve().name for bundle in bundles]
    names = {}
    for bundle, name in zip(bundles, short, strict=True):
        shown = name if short.count(name) == 1 else str(bundle.path)
        for target in bundle.targets:
            names[bundle.path, target] = shown if len(bundle.targets) == 1 else f"{shown} {target}"
    return names


def _file_bytes(bundle: Bundle, card: TargetCard) -> int:
    wanted = card.artifact.files
    return sum(
        file.bytes
        for name, file in bundle.manifest.files.items()
        if any(name == each or name.startswith(f"{each}/") for each in wanted)
    )


_Fits = dict[str, dict[str, Fit]]
_Peaks = dict[str, tuple[int, bool]]


def _budget(bundle: Bundle, device: Sequence[str], devices: Path | None) -> tuple[_Fits, _Peaks]:
    """Of each target, what devices say, and the predicted peak."""
    fits: _Fits = {target: {} for target in bundle.targets}
    peaks: _Peaks = {}
    if not bundle.causal:
        said = budget_encoder(bundle, device, devices)
        for each in said.predictions:
            peaks[each.target] = (each.footprint.peak, each.footprint.assumes)
        for limit in said.limits:
            fits[limit.target].setdefault(limit.title, Fit(str(limit.verdict), limit.bytes, limit.status))
        return fits, peaks
    report = evaluate(bundle, device, devices=devices)
    for candidate in report.candidates:
        peaks[candidate.plan.target] = (candidate.footprint.peak, candidate.footprint.assumes)
    for answer in report.answers:
        limit_ = answer.limits[0] if answer.limits else None
        fits[answer.candidate.plan.target][answer.title] = Fit(
            str(answer.verdict), limit_.bytes if limit_ else None, limit_.status if limit_ else "unknown"
        )
    return fits, peaks


def rows_of(compared: Sequence[Compared]) -> list[Row]:
    """The comparison, a row each; speeds are `edgeqkv.bench`'s own rows, and come behind."""

    def words(name: str, cell: Callable[[Compared], str]) -> Row:
        return Row(name, tuple(map(cell, compared)))

    def least(name: str, number: Callable[[Compared], float | None], cell: Callable[[Compared], str]) -> Row:
        numbers = [number(each) for each in compared]
        known = [each for each in numbers if each is not None]
        low = min(known, default=None)
        # Where all are alike none is best.
        best = {place for place, each in enumerate(numbers) if each is not None and each == low and max(known) != low}
        return Row(name, tuple(map(cell, compared)), frozenset(best))

    rows = [
        words("variant", lambda each: each.variant),
        words("target", lambda each: f"{each.target}, {each.form}"),
        words("weights", lambda each: each.weights),
        words("context", lambda each: "" if each.context is None else f"{each.context}, chunk {each.chunk}"),
        least("files", lambda each: each.file_bytes, lambda each: amount(each.file_bytes)),
        least(
            "KV state",
            lambda each: each.state_bytes or None,
            lambda each: f"{amount(each.state_bytes)} ({each.state})" if each.state_bytes else "",
        ),
        least(
            "memory, predicted",
            lambda each: each.peak_bytes,
            lambda each: amount(each.peak_bytes) + ("?" if each.peak_assumed else ""),
        ),
        words("verified", lambda each: _verified(each.verification)),
        least("perplexity", lambda each: each.quality.perplexity if each.quality else None, _perplexity),
    ]
    named = dict.fromkeys(name for each in compared for name in each.devices)
    rows += [Row(name, tuple(_fit(each.devices.get(name)) for each in compared)) for name in named]
    rows += [
        least(
            "prompt",
            lambda each: -each.speed.prompt_per_second if each.speed else None,
            lambda each: f"{each.speed.prompt_per_second:,.0f}/s" if each.speed else "",
        )
    ]
    for fill in sorted({at.fill for each in compared if each.speed for at in each.speed.decode}):
        rows.append(_decode_row(fill, compared, least))
    rows += [
        least(
            "load",
            lambda each: each.speed.load_seconds.p50 if each.speed else None,
            lambda each: f"{each.speed.load_seconds.p50:.2f} s" if each.speed else "",
        ),
        least(
            "memory, measured here",
            lambda each: each.speed.peak_bytes - each.speed.imported_bytes if each.speed else None,
            lambda each: f"{amount(each.speed.peak_bytes - each.speed.imported_bytes)}" if each.speed else "",
        ),
    ]
    return [row for row in rows if any(row.cells)]


_Least = Callable[[str, Callable[[Compared], float | None], Callable[[Compared], str]], Row]


def _decode_row(fill: int, compared: Sequence[Compared], least: _Least) -> Row:
    def at(each: Compared) -> float | None:
        found = each.speed.decode if each.speed else ()
        return next((place.milliseconds.p50 for place in found if place.fill == fill), None)

    def cell(each: Compared) -> str:
        time = at(each)
        return "" if time is None else f"{time:.2f} ms"

    return least(f"a token after {fill}", at, cell)


def _verified(result: Verification | None) -> str:
    if result is None:
        return "no"
    if not result.passed:
        return "FAILED"
    return f"yes, {result.argmax_equal} of {result.steps}"


def _perplexity(each: Compared) -> str:
    if each.quality is None:
        return "not measured"
    change = each.quality.degradation
    return f"{each.quality.perplexity:.2f}" + ("" if change is None else f" ({change:+.2%})")


def _fit(fit: Fit | None) -> str:
    if fit is None:
        return ""
    return fit.verdict + ("" if fit.limit_bytes is None else f" in {amount(fit.limit_bytes)}")


def notes_of(compared: Sequence[Compared]) -> list[str]:
    """What somebody who reads the table must know, to compare nothing that cannot be."""
    notes = []
    texts = {(each.quality.text, each.quality.tokens) for each in compared if each.quality}
    if len(texts) > 1:
        named = ", ".join(sorted(f"{tokens} tokens of {text}" for text, tokens in texts))
        notes.append(f"the perplexities are of different texts ({named}) and do not compare")
    if any(each.peak_assumed for each in compared):
        notes.append("? an assumption is in it; 'edgeqkv budget' says which")
    if not any(each.speed for each in compared):
        notes.append("speed was not measured; --bench does, in turn")
    elif any(each.speed for each in compared):
        notes.append("speeds are medians of this machine, measured in turn; memory measured is above the import")
    return notes


def page(compared: Sequence[Compared], generator: str) -> str:
    """The comparison as a page that needs nothing else. ``generator`` is the mark of pages that edgeqkv wrote."""
    environment = Environment(
        loader=FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(_TEMPLATE).render(
        compared=compared, rows=rows_of(compared), notes=notes_of(compared), generator=generator
    )
