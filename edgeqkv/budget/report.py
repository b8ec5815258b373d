"""The report: everything that a page, a terminal or a script needs, and nothing to be computed any more."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from edgeqkv.backends.footprint import ALL, Footprint, Phase
from edgeqkv.budget.answers import Answer, Candidate
from edgeqkv.budget.device_comparison import OnDevice
from edgeqkv.budget.devices import Fact
from edgeqkv.budget.measure import Comparison, Measurement
from edgeqkv.budget.paper import SOURCE
from edgeqkv.budget.provenance import Provenance
from edgeqkv.budget.sentences import ASSUMED, headline, mark, npu_sentence, sentence, speed_sentence
from edgeqkv.budget.speed import MeasuredSpeed
from edgeqkv.budget.verdicts import ROOM, Verdict
from edgeqkv.units import amount

__all__ = ["Facts", "Report", "Table", "lines", "term_rows", "to_json"]


@dataclass(frozen=True)
class Report:
    """Candidates (one an exported target, or planned), and the answers for each device asked for.

    ``measured`` holds, for each target that was run, what its process took and the prediction beside it;
    ``on_device`` what a device's app reported, and the prediction beside that; ``speed`` what `edgeqkv bench` measured;
    ``made`` where the report comes from.
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
    speed: MeasuredSpeed | None = None
    made: Provenance | None = None

    @property
    def passed(self) -> bool:
        """Whether nothing asked for is known not to fit."""
        return all(answer.verdict != Verdict.NOT for answer in self.answers)

    def with_measured(self, target: str, measurement: Measurement, rows: tuple[Comparison, ...]) -> Report:
        return replace(self, measured={**self.measured, target: (measurement, rows)})


def to_json(report: Report) -> dict[str, Any]:
    """The report as JSON values. Sizes are in bytes."""
    return {
        "subject": report.subject,
        "variant": report.variant,
        "parameters": report.parameters,
        "passed": report.passed,
        "fits_up_to": ROOM,
        "made": asdict(report.made) if report.made else None,
        "headline": headline(report.answers) if report.answers else "",
        "catalogue_generated": report.generated,
        "quality_source": SOURCE,
        "candidates": [_candidate(candidate) for candidate in report.candidates],
        "devices": [_answer(answer, report.speed) for answer in report.answers],
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
        "speed": asdict(report.speed) if report.speed else None,
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
        "kept": list(candidate.kept),
    }


def _answer(answer: Answer, speed: MeasuredSpeed | None) -> dict[str, Any]:
    return {
        "device": answer.device,
        "title": answer.title,
        "kind": answer.kind,
        "verdict": answer.verdict,
        "confidence": answer.confidence,
        "sentence": str(sentence(answer)),
        "candidate": answer.candidate.label,
        "why": answer.candidate.why,
        "context": answer.candidate.plan.context,
        "peak_bytes": answer.candidate.footprint.peak,
        "peak_phase": answer.candidate.footprint.peak_phase,
        "limits": [asdict(limit) for limit in answer.limits],
        "variants": [asdict(row) for row in answer.variants],
        "npu": answer.npu,
        "npu_verdict": answer.on_npu.verdict if answer.on_npu else None,
        "npu_confidence": answer.on_npu.confidence if answer.on_npu else None,
        "constraints": [asdict(each) for each in answer.constraints],
        "remedies": [asdict(each) for each in answer.remedies],
        "speed": str(speed_sentence(answer, speed)) if answer.kind != "npu" else None,
        "roofline": asdict(answer.roofline) if answer.roofline else None,
    }


Table = Callable[[Sequence[str], Sequence[Sequence[object]]], None]
Facts = Callable[[str, Sequence[tuple[str, object]]], None]


def lines(report: Report, facts: Facts, table: Table, blank: Callable[[], None]) -> None:
    """Print the report through the given functions: facts under a title, tables, empty lines.

    What was asked for comes first: a sentence a device, and what would make it fit where it does not.
    """
    if report.answers:
        facts(headline(report.answers), [row for answer in report.answers for row in _summary(report, answer)])
        blank()
    for candidate in report.candidates:
        _footprint_lines(report, candidate, facts, table)
        blank()
    for answer in report.answers:
        _answer_lines(report, answer, facts, table)
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


def _summary(report: Report, answer: Answer) -> list[tuple[str, object]]:
    several = len({each.candidate for each in report.answers if each.device == answer.device}) > 1
    title = f"{answer.title}, {answer.candidate.plan.target}" if several else answer.title
    rows: list[tuple[str, object]] = [(title, f"{answer.verdict} ({answer.confidence}). {sentence(answer)}")]
    if answer.on_npu and answer.kind != "npu":
        found = answer.on_npu
        rows.append((f"- {found.title}", f"{found.verdict} ({found.confidence}). {npu_sentence(answer)}"))
    rows += [
        ("- what would help", f"{each.options} saves {amount(each.saves)}: {amount(each.peak)}, {each.verdict}")
        for each in answer.remedies
    ]
    return rows


def _footprint_lines(report: Report, candidate: Candidate, facts: Facts, table: Table) -> None:
    predicted = candidate.footprint
    what = "exported" if candidate.exported else "planned"
    facts(
        f"{report.subject} ({report.variant}) · {candidate.label}",
        [
            (what, f"context {candidate.plan.context}, chunk {candidate.plan.chunk}"),
            *([("why", candidate.why)] if candidate.why else []),
            *(("keeps", each) for each in candidate.kept),
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


def _answer_lines(report: Report, answer: Answer, facts: Facts, table: Table) -> None:
    rows: list[tuple[str, object]] = [("export", answer.candidate.label)]
    for limit in answer.limits:
        size = "not known" if limit.bytes is None else amount(limit.bytes)
        known = f"; largest context {limit.largest_context}{mark(limit.status)}"
        longest = "" if limit.largest_context is None else known
        note = f" ({limit.note})" if limit.note else ""
        rows.append((limit.name, f"{size}{mark(limit.status)}: {limit.verdict}{longest}{note}"))
    if answer.kind != "npu":
        rows.append(("decode", speed_sentence(answer, report.speed)))
    for each in answer.constraints:
        held = {True: "met", False: "FAILS", None: "open"}[each.holds]
        rows.append((f"{answer.npu}: {each.name}", f"{held}{mark(each.status)}: {each.detail}"))
    facts(f"{answer.title} ({answer.device}): {answer.verdict}", rows)
    limit_mark = mark(answer.limits[0].status) if answer.limits else ""
    papers = any(row.quality for row in answer.variants)
    table(
        (
            "variant",
            "KV state",
            "cut",
            "process",
            "memory",
            "largest context",
            *(["paper's perplexity"] if papers else []),
        ),
        [
            (
                f"{row.variant}{' (this)' if row.is_this else ''}",
                amount(row.state_bytes),
                f"{row.reduction:.1%}",
                amount(row.peak) + (ASSUMED if row.assumed else ""),
                row.verdict,
                "not known" if row.largest_context is None else f"{row.largest_context}{limit_mark}",
                *([row.quality or "not in the paper"] if papers else []),
            )
            for row in answer.variants
        ],
    )
