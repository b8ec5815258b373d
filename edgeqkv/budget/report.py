"""The report: everything that a page, a terminal or a script needs, and nothing to be computed any more."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final

from edgeqkv.backends.footprint import ALL, Footprint, Phase
from edgeqkv.budget.answers import HEADROOM, Answer, Candidate, Verdict
from edgeqkv.budget.device_comparison import OnDevice
from edgeqkv.budget.devices import Fact
from edgeqkv.budget.measure import Comparison, Measurement
from edgeqkv.budget.npu import GB
from edgeqkv.budget.paper import SOURCE

__all__ = ["ASSUMED", "Facts", "Report", "Table", "amount", "lines", "mark", "term_rows", "to_json"]

ASSUMED: Final = "?"
"""Stands behind every number that rests on an assumption (status unknown)."""

_MARKS: Final = {"vendor-documented": "", "community-measured": "~", "unknown": ASSUMED}


@dataclass(frozen=True)
class Report:
    """Candidates (one an exported target, or planned), and the answers for each device asked for.

    ``measured`` holds, for each target that was run, what its process took and the prediction beside it;
    ``on_device`` what a device's app reported, and the prediction beside that.
    """

    subject: str
    variant: str
    parameters: int
    candidates: tuple[Candidate, ...]
    answers: tuple[Answer, ...]
    platform: dict[str, dict[str, Fact[str | bool | float]]] = field(default_factory=dict)
    generated: str = ""
    measured: dict[str, tuple[Measurement, tuple[Comparison, ...]]] = field(default_factory=dict)
    on_device: OnDevice | None = None

    @property
    def passed(self) -> bool:
        """Whether nothing asked for is known not to fit."""
        return all(answer.verdict != Verdict.NOT for answer in self.answers)

    def with_measured(self, target: str, measurement: Measurement, rows: tuple[Comparison, ...]) -> Report:
        return replace(self, measured={**self.measured, target: (measurement, rows)})


def amount(count: int) -> str:
    """Bytes in the unit that limits are given in, decimal.

    >>> amount(1_182_000_000)
    '1.18 GB'
    """
    return f"{count / GB:.2f} GB" if count >= GB else f"{count / 10**6:.1f} MB"


def mark(status: str) -> str:
    """The sign behind a number of this status."""
    return _MARKS[status]


def to_json(report: Report) -> dict[str, Any]:
    """The report as JSON values. Sizes are in bytes."""
    return {
        "subject": report.subject,
        "variant": report.variant,
        "parameters": report.parameters,
        "passed": report.passed,
        "headroom": HEADROOM,
        "catalogue_generated": report.generated,
        "quality_source": SOURCE,
        "candidates": [_candidate(candidate) for candidate in report.candidates],
        "devices": [_answer(answer) for answer in report.answers],
        "platform": {
            system: {name: fact.model_dump() for name, fact in facts.items()}
            for system, facts in report.platform.items()
        },
        "measured": {
            target: {
                "imported": asdict(measurement.imported),
                "phases": {phase: asdict(measured) for phase, measured in measurement.phases.items()},
                "comparison": [{**asdict(row), "error": row.error} for row in rows],
            }
            for target, (measurement, rows) in report.measured.items()
        },
        "on_device": report.on_device.to_json() if report.on_device else None,
    }


def _candidate(candidate: Candidate) -> dict[str, Any]:
    plan, predicted = candidate.plan, candidate.footprint
    return {
        "label": candidate.label,
        "exported": candidate.exported,
        "why": candidate.why,
        "target": plan.target,
        "form": plan.form,
        "weights": plan.weights,
        "state": plan.state,
        "context": plan.context,
        "chunk": plan.chunk,
        "peak_bytes": predicted.peak,
        "peak_phase": predicted.peak_phase,
        "phases": {phase: predicted.total(phase) for phase in ("load", "prefill", "decode")},
        "parts": predicted.parts(),
        "terms": [asdict(term) for term in predicted.terms],
    }


def _answer(answer: Answer) -> dict[str, Any]:
    return {
        "device": answer.device,
        "title": answer.title,
        "kind": answer.kind,
        "verdict": answer.verdict,
        "candidate": answer.candidate.label,
        "why": answer.candidate.why,
        "context": answer.candidate.plan.context,
        "peak_bytes": answer.candidate.footprint.peak,
        "peak_phase": answer.candidate.footprint.peak_phase,
        "limits": [asdict(limit) for limit in answer.limits],
        "variants": [asdict(row) for row in answer.variants],
        "npu": answer.npu,
        "npu_verdict": answer.npu_verdict,
        "constraints": [asdict(each) for each in answer.constraints],
        "roofline": asdict(answer.roofline) if answer.roofline else None,
    }


Table = Callable[[Sequence[str], Sequence[Sequence[object]]], None]
Facts = Callable[[str, Sequence[tuple[str, object]]], None]


def lines(report: Report, facts: Facts, table: Table, blank: Callable[[], None]) -> None:
    """Print the report through the given functions: facts under a title, tables, empty lines."""
    for candidate in report.candidates:
        _footprint_lines(report, candidate, facts, table)
        blank()
    for answer in report.answers:
        _answer_lines(answer, facts, table)
        blank()
    for target, (_, rows) in report.measured.items():
        facts(f"{target}: prediction against a measured process (resident size)", [])
        _comparison_table(rows, table)
        blank()
    if report.on_device:
        facts(report.on_device.title, report.on_device.facts())
        if report.on_device.rows:
            _comparison_table(report.on_device.rows, table)
        facts("not compared", list(report.on_device.open.items()))
        blank()
    facts("marks", [("~", "community-measured"), (ASSUMED, "unknown: an assumption"), ("none", "known or computed")])


def _footprint_lines(report: Report, candidate: Candidate, facts: Facts, table: Table) -> None:
    predicted = candidate.footprint
    what = "exported" if candidate.exported else "planned"
    facts(
        f"{report.subject} ({report.variant}) · {candidate.label}",
        [
            (what, f"context {candidate.plan.context}, chunk {candidate.plan.chunk}"),
            *([("why", candidate.why)] if candidate.why else []),
            ("peak", f"{amount(predicted.peak)}{ASSUMED if predicted.assumes else ''}, in {predicted.peak_phase}"),
        ],
    )
    table(*term_rows(predicted))


def term_rows(
    predicted: Footprint, names: Mapping[Phase, str] | None = None
) -> tuple[Sequence[str], Sequence[Sequence[object]]]:
    """A table of all terms: its head and its rows; ``names`` are what phases are called."""
    rows = []
    for term in predicted.terms:
        when = ", ".join(dict.fromkeys((names or {}).get(phase, phase) for phase in term.phases))
        rows.append(
            (
                term.name,
                amount(term.bytes) + (ASSUMED if term.assumed else ""),
                term.memory,
                "always" if term.phases == ALL else when,
                term.formula,
            )
        )
    return ("term", "size", "memory", "when", "formula"), rows


def _comparison_table(rows: Sequence[Comparison], table: Table) -> None:
    table(
        ("what", "predicted", "measured", "error"),
        [(row.name, amount(row.predicted), amount(row.measured), f"{row.error:+.1%}") for row in rows],
    )


def _answer_lines(answer: Answer, facts: Facts, table: Table) -> None:
    rows: list[tuple[str, object]] = [("export", answer.candidate.label)]
    for limit in answer.limits:
        size = "not known" if limit.bytes is None else amount(limit.bytes)
        known = f"; largest context {limit.largest_context}{mark(limit.status)}"
        longest = "" if limit.largest_context is None else known
        note = f" ({limit.note})" if limit.note else ""
        rows.append((limit.name, f"{size}{mark(limit.status)}: {limit.verdict}{longest}{note}"))
    if answer.roofline:
        bound = answer.roofline
        rows.append(
            (
                "decode, at most",
                f"{bound.tokens_per_second:.0f} tokens/s{mark(bound.status)} at full context: a bound from "
                f"{bound.bandwidth_gbs:g} GB/s{mark(bound.status)} and {amount(bound.bytes_per_token)} a token, "
                f"not a prediction",
            )
        )
    if answer.kind != "npu" and answer.npu_verdict is not None:
        rows.append((f"on the NPU, {answer.npu}", str(answer.npu_verdict)))
    for each in answer.constraints:
        held = {True: "met", False: "FAILS", None: "open"}[each.holds]
        rows.append((f"{answer.npu}: {each.name}", f"{held}{mark(each.status)}: {each.detail}"))
    facts(f"{answer.title} ({answer.device}): {answer.verdict}", rows)
    limit_mark = mark(answer.limits[0].status) if answer.limits else ""
    table(
        ("variant", "KV state", "cut", "process", "memory", "largest context", "quality (perplexity)"),
        [
            (
                f"{row.variant}{' (this)' if row.is_this else ''}",
                amount(row.state_bytes),
                f"{row.reduction:.1%}",
                amount(row.peak) + (ASSUMED if row.assumed else ""),
                row.verdict,
                "not known" if row.largest_context is None else f"{row.largest_context}{limit_mark}",
                row.quality or "not in the paper",
            )
            for row in answer.variants
        ],
    )
