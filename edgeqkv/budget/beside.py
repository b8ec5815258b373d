"""What was measured, here or on a device, put beside a report's predictions."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

from edgeqkv.budget.device_comparison import OnDevice, compare_device
from edgeqkv.budget.device_report import DeviceReport, check_bundle, read_device_report
from edgeqkv.budget.evaluate import evaluate
from edgeqkv.budget.measure import compare, measurable, measure
from edgeqkv.budget.report import Report
from edgeqkv.bundle.bundle import Bundle, is_bundle
from edgeqkv.errors import InputError
from edgeqkv.progress import Progress

__all__ = ["compared_with", "with_device_report", "with_measurements"]


def with_measurements(
    report: Report, subject: Path, context: int | None, on_progress: Progress, on_note: Callable[[str], None]
) -> Report:
    """The report with every target measured that runs here; ``on_note`` is told which does not.

    Raises:
        InputError: the report is not of an export, or not of the context that it was made for.
    """
    if context is not None:
        raise InputError("--measure runs the bundle at the context it was exported for; leave out --context")
    if not is_bundle(subject):
        raise InputError(f"--measure runs an export; {subject} is a checkpoint. Export it first")
    bundle = Bundle(subject)
    by_target = {candidate.plan.target: candidate.footprint for candidate in report.candidates}
    for target, predicted in by_target.items():
        if not measurable(target) and len(by_target) > 1:
            on_note(f"{target} is not measured: its runtime does not run on Linux")
            continue
        on_progress(f"measuring {target}", None)
        measurement = measure(bundle.path, bundle.target(target).artifact, bundle.tokenizer_path)
        report = report.with_measured(target, measurement, compare(predicted, measurement, target))
    return report


def with_device_report(report: Report, subject: Path, context: int | None, file: Path) -> Report:
    """The report with what an app on a device measured (``device-report.json``).

    Raises:
        InputError: the report is not of one bundle on one device, or the file is of another bundle.
    """
    if context is not None:
        raise InputError("--compare is with the context that the bundle was exported for; leave out --context")
    if not is_bundle(subject):
        raise InputError(f"--compare is with the bundle that was on the device; {subject} is a checkpoint")
    if len({answer.device for answer in report.answers}) > 1 or any(answer.kind == "npu" for answer in report.answers):
        raise InputError("a device report is of one phone, tablet or board; name that one alone with --device")
    measured = read_device_report(file)
    check_bundle(measured, Bundle(subject, check=False))
    candidate = next(each for each in report.candidates if each.plan.target == measured.target)
    answer = next((each for each in report.answers if each.candidate.plan.target == measured.target), None)
    compared = compare_device(candidate.footprint, candidate.plan.context, measured, answer)
    return dataclasses.replace(report, on_device=compared)


def compared_with(subject: Path, measured: DeviceReport) -> OnDevice:
    """A device's report beside the prediction for the bundle that ran there.

    Raises:
        InputError: the report is of another bundle.
        BundleError: the bundle is damaged.
    """
    bundle = Bundle(subject)
    bundle.check_causal(wanted=True)
    check_bundle(measured, bundle)
    candidate = next(each for each in evaluate(bundle).candidates if each.plan.target == measured.target)
    return compare_device(candidate.footprint, candidate.plan.context, measured, None)
