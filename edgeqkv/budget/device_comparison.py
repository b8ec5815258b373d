"""A device's report beside the prediction: what the system counted against what was predicted for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from edgeqkv.backends.footprint import PHASES, Footprint, Memory
from edgeqkv.budget.answers import Answer
from edgeqkv.budget.device_report import DeviceReport, MemoryFigure
from edgeqkv.budget.measure import Comparison
from edgeqkv.budget.speed import Roofline

__all__ = ["OnDevice", "compare_device"]

_COUNTED: Final[dict[MemoryFigure, tuple[Memory, ...]]] = {
    "Debug.MemoryInfo.totalPss": ("anonymous", "mapped"),
    "phys_footprint": ("anonymous",),
}
"""The kinds of memory that a system's figure counts, for those that count a process's memory by kind."""


@dataclass(frozen=True)
class OnDevice:
    """A report and the prediction beside it.

    Attributes:
        report: what the device's app wrote.
        rows: what can be compared, in bytes.
        bound: the bound on decoding, for the device that was asked for; None without one, or where its memory
            bandwidth is not known.
        open: what cannot be compared → why.
    """

    report: DeviceReport
    rows: tuple[Comparison, ...]
    bound: Roofline | None
    open: dict[str, str]

    @property
    def title(self) -> str:
        told = self.report
        where = f"{told.system.name} {told.system.version}"
        if told.browser:
            where = f"{told.browser.name} {told.browser.version}, {where}"
        return f"{told.target} on {told.device.name} ({where}): prediction against the device's report"

    def facts(self) -> list[tuple[str, str]]:
        """What was measured, in words; times are of the device as warm as it was."""
        told, settings = self.report, self.report.runtime.settings
        decode = f"{told.decode.tokens} tokens, {told.decode.tokens_per_second:.1f} tokens/s"
        if self.bound:
            share = told.decode.tokens_per_second / self.bound.tokens_per_second
            decode += f", {share:.1%} of the bound for {self.bound.bandwidth_gbs:g} GB/s"
        rows = [
            ("measured", f"{told.date:%Y-%m-%d %H:%M %z} by {told.app.name} {told.app.version}"),
            ("runtime", f"{told.runtime.name} {told.runtime.version}{f' ({settings})' if settings else ''}"),
            ("load", f"{told.load_seconds:.2f} s"),
            ("prefill", f"{told.prefill.tokens} tokens, {told.prefill.tokens_per_second:.1f} tokens/s"),
            ("decode", decode),
        ]
        if told.memory:
            rows.append(("memory", f"{told.memory.figure}, above what it was before the model"))
        if told.thermal:
            rows.append(("temperature", f"{told.thermal.before}, afterwards {told.thermal.after}"))
        return rows

    def to_json(self) -> dict[str, Any]:
        """As JSON values. Sizes are in bytes."""
        return {
            "report": self.report.model_dump(mode="json"),
            "comparison": [
                {"name": row.name, "predicted": row.predicted, "measured": row.measured, "error": row.error}
                for row in self.rows
            ],
            "prefill_tokens_per_second": self.report.prefill.tokens_per_second,
            "decode_tokens_per_second": self.report.decode.tokens_per_second,
            "decode_bound_tokens_per_second": self.bound.tokens_per_second if self.bound else None,
            "not_compared": self.open,
        }


def compare_device(predicted: Footprint, context: int, report: DeviceReport, answer: Answer | None) -> OnDevice:
    """Put a prediction for ``context`` tokens beside a report of the same target.

    ``answer`` is what the prediction means on the device of the catalogue that the report is from, if that was named.
    """
    memory_rows, open_ = _memory(predicted, report)
    rows = [*memory_rows, *_state(predicted, report, open_), *_limit(report, answer, open_)]
    if report.filled < context:
        open_["full context"] = (
            f"the run filled {report.filled} of {context} positions, and the prediction is for all of them: "
            "state and activations may not have grown to it"
        )
    open_["terms apart"] = "a system counts pages, not what they are for; the table above has every term predicted"
    open_["load time, prefill speed"] = "the budget predicts memory, and for decoding a bound, no times"
    bound = answer.roofline if answer else None
    if answer is None:
        open_["decode speed"] = "its bound needs the device's memory bandwidth; name the device with --device"
    elif bound is None:
        open_["decode speed"] = (
            f"there is no bound: the catalogue has no memory bandwidth of {answer.title}, or a token reads too little"
        )
    return OnDevice(report, tuple(rows), bound, open_)


def _memory(predicted: Footprint, report: DeviceReport) -> tuple[list[Comparison], dict[str, str]]:
    memory = report.memory
    if memory is None:
        return [], {"memory": "the report has none"}
    kinds = _COUNTED.get(memory.figure)
    if kinds is None or report.browser:
        return [], {
            "memory": f"{memory.figure} counts a page in a browser, which holds the weights as it fetched them; the "
            "prediction is for a process that maps its files"
        }
    rows, open_ = [], {}
    for phase in PHASES:
        above = memory.phases.get(phase, 0) - memory.before_bytes
        if phase not in memory.phases:
            open_[f"memory, {phase}"] = "the report has no sample of it"
        elif above <= 0:
            open_[f"memory, {phase}"] = f"{memory.figure} was not above what it was before the model"
        else:
            rows.append(Comparison(phase, predicted.total(phase, *kinds), above))
    if rows:
        most = max(row.predicted for row in rows)
        rows.append(Comparison("peak", most, max(row.measured for row in rows)))
    if "mapped" not in kinds:
        left = max(predicted.total(phase, "mapped") for phase in PHASES)
        open_["mapped files"] = f"{memory.figure} does not count them; {left:,} bytes are predicted"
    return rows, open_


def _state(predicted: Footprint, report: DeviceReport, open_: dict[str, str]) -> list[Comparison]:
    if not report.state_bytes:
        open_["state"] = "the runtime holds it, so the app cannot say what it takes"
        return []
    state = sum(term.bytes for term in predicted.terms if term.name == "state")
    return [Comparison("state", state, report.state_bytes)]


def _limit(report: DeviceReport, answer: Answer | None, open_: dict[str, str]) -> list[Comparison]:
    told = report.memory.limit_bytes if report.memory else None
    known = answer.limits[0].bytes if answer and answer.limits else None
    if not told:
        open_["app limit"] = "the system did not say what the process may take"
    elif not known:
        open_["app limit"] = (
            f"the system allows {told:,} bytes; name the device with --device, and its limit of the catalogue, "
            "if it is known, stands beside it"
        )
    else:
        return [Comparison("app limit", known, told)]
    return []
