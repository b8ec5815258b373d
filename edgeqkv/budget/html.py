"""The report as one page that needs nothing else: no network, no script; drawings and style are in it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from edgeqkv.budget.answers import HEADROOM, Answer, Candidate, Verdict
from edgeqkv.budget.paper import SOURCE
from edgeqkv.budget.report import ASSUMED, Report, amount, mark
from edgeqkv.budget.svg import PARTS, Bar, Line, context_chart, stacked_bars

__all__ = ["GENERATOR", "render"]

GENERATOR: Final = b'<meta name="generator" content="edgeqkv">'
"""What stands at the beginning of every page, by which an older one is known."""

_FOLDER: Final = Path(__file__).parent
_TEMPLATE: Final = "report.html.j2"
_CLASSES: Final = {
    Verdict.FITS: "good",
    Verdict.TIGHT: "warn",
    Verdict.NOT: "bad",
    Verdict.RUNS: "good",
    Verdict.UNKNOWN: "open",
}


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


def render(report: Report) -> str:
    """The whole page."""
    environment = Environment(
        loader=FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["amount"] = amount
    environment.globals.update(
        known=_known,
        assumed=_assumed,
        verdict_class=lambda verdict: _CLASSES[verdict],
        bars=_device_bars,
        chart=_chart,
        variant_bars=_variant_bars,
    )
    return environment.get_template(_TEMPLATE).render(
        report=report,
        notes=_Notes(),
        parts=PARTS,
        headroom=f"{HEADROOM - 1:.0%}",
        quality_source=SOURCE,
        style=Markup((_FOLDER / "report.css").read_text(encoding="utf-8")),
    )


def _known(text: object, status: str) -> Markup:
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


def _peak(candidate: Candidate) -> str:
    return amount(candidate.footprint.peak) + (ASSUMED if candidate.footprint.assumes else "")


def _of_limit(answer: Answer) -> str:
    if not answer.limits or answer.limits[0].bytes is None:
        return ""
    return f" of {amount(answer.limits[0].bytes)}{mark(answer.limits[0].status)}"


def _device_bars(report: Report) -> Markup:
    """A bar a device; a bar a candidate where no device was asked for."""
    bars = [
        Bar(
            name=answer.title,
            remark=answer.candidate.label,
            parts=answer.candidate.footprint.parts(),
            total=f"{_peak(answer.candidate)}{_of_limit(answer)}",
            limit=answer.limits[0].bytes if answer.limits else None,
            limit_label=answer.limits[0].name if answer.limits else "",
        )
        for answer in report.answers
    ] or [
        Bar(candidate.plan.target, candidate.label, candidate.footprint.parts(), _peak(candidate))
        for candidate in report.candidates
    ]
    return stacked_bars(bars, "What the process takes at its peak, by part")


def _chart(answer: Answer) -> Markup:
    """Memory against context: this variant, unshared attention beside it, and the limits."""
    own = next(row for row in answer.variants if row.is_this)
    lines = [Line(own.variant, "own", own.curve)]
    if own.variant != "qkv":
        unshared = next(row for row in answer.variants if row.variant == "qkv")
        lines.append(Line("qkv (unshared)", "other", unshared.curve))
    limits = [(f"{limit.name}{mark(limit.status)}", limit.bytes) for limit in answer.limits if limit.bytes is not None]
    return context_chart(lines, limits, f"{answer.title}: memory of the process against context")


def _variant_bars(answer: Answer) -> Markup:
    """A bar a variant: its KV state, and everything else."""
    bars = [
        Bar(
            name=f"{row.variant}{'  · this model' if row.is_this else ''}",
            remark=f"KV state {amount(row.state_bytes)}, {row.reduction:.1%} less",
            parts={"runtime": row.peak - row.state_bytes, "state": row.state_bytes},
            total=amount(row.peak) + (ASSUMED if row.assumed else ""),
        )
        for row in answer.variants
    ]
    return stacked_bars(bars, f"{answer.title}: the same model as other variants")
