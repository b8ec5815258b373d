"""The report as one page that needs nothing else: no network, no script; drawings and style are in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from edgeqkv.budget.answers import Answer, Candidate, VariantRow
from edgeqkv.budget.devices import Status
from edgeqkv.budget.paper import SOURCE
from edgeqkv.budget.report import Report
from edgeqkv.budget.sentences import ASSUMED, headline, mark, npu_sentence, percent, sentence, speed_sentence
from edgeqkv.budget.svg import Line, axis_of, context_chart
from edgeqkv.budget.verdicts import ROOM, Confidence, NpuVerdict, Verdict, confidence_of
from edgeqkv.units import amount

__all__ = ["GENERATOR", "PARTS", "render"]

GENERATOR: Final = b'<meta name="generator" content="edgeqkv">'
"""What stands at the beginning of every page, by which an older one is known."""

PARTS: Final = ("weights", "state", "activations", "logits", "tokenizer", "runtime")
"""The parts of a bar, in the order in which they are put side by side."""

_FOLDER: Final = Path(__file__).parent
_TEMPLATE: Final = "report.html.j2"
_CLASSES: Final = {
    Verdict.FITS: "good",
    Verdict.TIGHT: "warn",
    Verdict.NOT: "bad",
    Verdict.UNKNOWN: "open",
    NpuVerdict.RUNS: "good",
    NpuVerdict.MEETS: "good",
    NpuVerdict.FAILS: "bad",
    NpuVerdict.OPEN: "open",
}
_PART_NAMES: Final = {"state": "KV state"}
_SYMBOLS: Final = {Verdict.FITS: "✓", Verdict.TIGHT: "!", Verdict.NOT: "✕", Verdict.UNKNOWN: "·"}


@dataclass
class _Notes:
    """The footnotes: each source once, numbered as it is first used."""

    sources: list[str] = field(default_factory=list)

    def refer(self, sources: tuple[str, ...]) -> Markup:
        """Links to the notes of these sources, numbering what is new."""
        links = []
        for source in sources:
            if source not in self.sources:
                self.sources.append(source)
            number = self.sources.index(source) + 1
            links.append(f'<a class="ref" href="#note-{number}" aria-label="source {number}">{number}</a>')
        return Markup(f"<sup>{' '.join(links)}</sup>" if links else "")


@dataclass(frozen=True)
class _Gauge:
    """What is taken, beside what may be: in percent of the longer of both."""

    used: float
    limit: float
    room: float
    label: str
    most: str

    @property
    def beyond(self) -> bool:
        """Whether more is taken than may be, so that the limit lies within the bar."""
        return self.limit < 100

    @classmethod
    def of(cls, answer: Answer) -> _Gauge | None:
        limit, peak = answer.limit.bytes if answer.limit else None, answer.candidate.footprint.peak
        if not limit:
            return None
        whole = max(limit, peak)
        label = f"{amount(peak)} of {amount(limit)}, {percent(peak / limit)}: {answer.verdict}"
        return cls(100 * peak / whole, 100 * limit / whole, 100 * ROOM * limit / whole, label, amount(limit))


@dataclass(frozen=True)
class _Part:
    name: str
    style: str
    share: float
    size: str


def render(report: Report) -> str:
    """The whole page."""
    environment = Environment(
        loader=FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(amount=amount, percent=percent)
    environment.globals.update(
        known=_known,
        assumed=_assumed,
        style_of=_style_of,
        npu_style=_npu_style,
        gauge=_Gauge.of,
        parts=_parts,
        chart=_chart,
        curves=_curves,
        logarithmic=lambda answer: not axis_of(_curves(answer), _sizes(answer)).linear,
        limit_lines=_limits,
        sentence=sentence,
        npu_sentence=npu_sentence,
        speed_sentence=lambda answer: speed_sentence(answer, report.speed),
        symbol=lambda verdict: _SYMBOLS[verdict],
        title=lambda answer: _title(report, answer),
        process=_process,
        how=lambda status: confidence_of([status]),
    )
    return environment.get_template(_TEMPLATE).render(
        report=report,
        answers=report.answers,
        headline=headline(report.answers) if report.answers else "",
        footprints=list({each.footprint: each for each in report.candidates}.values()),
        contexts=sorted({each.plan.context for each in report.candidates}),
        same=len({answer.candidate.label for answer in report.answers}) <= 1,
        variants=_variants(report.answers),
        notes=_Notes(),
        room=percent(ROOM),
        left=percent(1 - ROOM),
        quality_source=SOURCE,
        style=Markup((_FOLDER / "report.css").read_text(encoding="utf-8")),
    )


def _known(text: object, status: Status) -> Markup:
    """A number with the sign of how it is known; what is unknown is marked for the eye and in words."""
    shown = escape(str(text))
    if status == "unknown":
        return _assumed(shown)
    if status == "community-measured":
        return Markup(
            f'<span data-status="{status}">{shown}<abbr title="measured or reported by others">~</abbr></span>'
        )
    return Markup(f'<span data-status="{escape(status)}">{shown}</span>')


def _assumed(text: object) -> Markup:
    sign = f'<abbr title="unknown: an assumption">{ASSUMED}</abbr>'
    return Markup(f'<span class="unknown" data-status="unknown">{escape(text)}{sign}</span>')


def _process(candidate: Candidate) -> Markup:
    peak = amount(candidate.footprint.peak)
    return _assumed(peak) if candidate.footprint.assumes else Markup(escape(peak))


def _style_of(verdict: Verdict | NpuVerdict, confidence: Confidence) -> str:
    """The classes of a verdict: its colour, and how sure it is. What is assumed to fit is not green."""
    colour = _CLASSES[verdict]
    return f"{'hoped' if colour == 'good' and confidence == Confidence.ASSUMED else colour} {confidence}"


def _npu_style(answer: Answer) -> str:
    return _style_of(answer.on_npu.verdict, answer.on_npu.confidence) if answer.on_npu else ""


def _title(report: Report, answer: Answer) -> str:
    """A device's name, with the target where several are judged on it."""
    several = sum(each.device == answer.device for each in report.answers) > 1
    return f"{answer.title} · {answer.candidate.plan.target}" if several else answer.title


def _parts(candidate: Candidate) -> list[_Part]:
    """The parts of the peak, as percent of it."""
    sizes = candidate.footprint.parts()
    whole = sum(sizes.values())
    return [
        _Part(_PART_NAMES.get(name, name), name, 100 * sizes[name] / whole, amount(sizes[name]))
        for name in PARTS
        if sizes.get(name)
    ]


def _curves(answer: Answer) -> list[Line]:
    """Memory against context: this variant, and unshared attention beside it."""
    own = next(row for row in answer.variants if row.is_this)
    lines = [Line(f"{own.variant} (this model)", "own", own.curve)]
    if own.variant != "qkv":
        unshared = next(row for row in answer.variants if row.variant == "qkv")
        lines.append(Line("qkv (unshared)", "other", unshared.curve))
    return lines


def _limits(answer: Answer) -> list[tuple[str, int]]:
    return [(f"{each.name}{mark(each.status)}", each.bytes) for each in answer.limits if each.bytes is not None]


def _sizes(answer: Answer) -> list[int]:
    return [size for _, size in _limits(answer)]


def _chart(answer: Answer) -> Markup:
    return context_chart(_curves(answer), _limits(answer), f"{answer.title}: memory of the process against context")


@dataclass(frozen=True)
class _VariantLine:
    """A variant on every device: its row for the first export, and one for each answer."""

    first: VariantRow
    most_state: int
    rows: tuple[tuple[Answer, VariantRow], ...]


def _variants(answers: Sequence[Answer]) -> list[_VariantLine]:
    if not answers:
        return []
    most = max(row.state_bytes for row in answers[0].variants)
    return [
        _VariantLine(row, most, tuple((answer, answer.variants[index]) for answer in answers))
        for index, row in enumerate(answers[0].variants)
    ]
