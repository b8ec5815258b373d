"""The memory budget: what a process that runs an export takes, and whether a device lets it.

    report = edgeqkv.budget("build/phone", device="pixel-9-pro")     # what was exported, read from its files
    report = edgeqkv.budget("model.pt", device=["iphone-15", "hexagon-v75"])   # what an export would take

Every number in a report is a term with its formula and its origin, or a fact with its source; what is assumed is
marked. `edgeqkv.budget.measure` runs the process and puts the measurement beside the prediction.

    devices.py      the catalogue; devices.yaml is its data
    plan.py         a model's shapes and an export of them; the terms of both, as the target's memory model has them
    presets.py      tried choices for a device
    measure.py      what a process really takes
    device_report.py, device_comparison.py   what an app on a device measured, and the prediction beside it
    contribution.py, measured_page.py        the same as an entry of the catalogue; docs/measured.md
    npu.py          an NPU's demands; paper.py: the paper's perplexities; speed.py: decoding, measured or bounded
    verdicts.py     how a footprint and a limit compare, and how sure that is
    remedies.py     what would make an export fit
    answers.py      what all this means on a device
    evaluate.py     a subject and devices in, a report out; encoders.py: the same for models without a state
    report.py       the report for terminals and scripts; sentences.py: in words; html.py and svg.py: as a page;
                    provenance.py: of what and when
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgeqkv.budget.encoders import EncoderReport
    from edgeqkv.budget.report import Report
    from edgeqkv.bundle.bundle import Bundle
    from edgeqkv.model.model import Model

__all__ = ["budget"]


def budget(
    subject: Bundle | Model | str | Path,
    device: str | Sequence[str] = (),
    *,
    context: int | None = None,
    devices: str | Path | None = None,
) -> Report | EncoderReport:
    """Predict what a bundle, or an export of a model, takes, and say what that means on devices.

    Args:
        subject: a bundle or its folder, a model or its checkpoint.
        device: names from the catalogue; without any, the footprint alone is reported.
        context: tokens; the bundle's or the model's own if not given. Encoders have none.
        devices: a file of the user's own devices, laid over the catalogue.

    Raises:
        InputError: a device is unknown, or the context is beyond the model's positions.
        EdgeQKVError: the subject cannot be read; the subclass says in which way.

    >>> report = edgeqkv.budget("model.pt", "pixel-9-pro", context=256)
    >>> report.passed, report.answers[0].title, str(report.answers[0].verdict)
    (True, 'Pixel 9 Pro', 'fits')
    """
    from edgeqkv.budget.encoders import budget_encoder, encoder_bundle
    from edgeqkv.budget.evaluate import evaluate

    own = None if devices is None else Path(devices)
    if (encoder := encoder_bundle(subject)) is not None:
        return budget_encoder(encoder, device, own)
    return evaluate(subject, device, context=context, devices=own)
