"""The budget of encoders: weights, activations and work, and what sharing projections saves of them.

There is no state, no context and no token after another, so that the report is a small one of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgeqkv.backends import backend
from edgeqkv.backends.footprint import Footprint, count
from edgeqkv.backends.memory import memory_of
from edgeqkv.budget.answers import NpuAnswer, app_limits, npu_part
from edgeqkv.budget.devices import Catalogue, Device, Npu, Status, load_catalogue
from edgeqkv.budget.npu import Constraint, constraints
from edgeqkv.budget.plan import ModelShape, plan_of
from edgeqkv.budget.report import Facts, Table, term_rows
from edgeqkv.budget.sentences import ASSUMED, mark
from edgeqkv.budget.speed import GB
from edgeqkv.budget.verdicts import NpuVerdict, Verdict, verdict_of
from edgeqkv.bundle.bundle import Bundle, is_bundle
from edgeqkv.bundle.manifest import Artifact
from edgeqkv.model.variants import Sharing, Variant
from edgeqkv.units import amount

__all__ = ["DeviceLimit", "EncoderReport", "OnNpu", "Prediction", "Saving", "budget_encoder", "encoder_bundle"]


@dataclass(frozen=True)
class Prediction:
    """What a process takes that runs one of the exports."""

    target: str
    label: str
    footprint: Footprint


@dataclass(frozen=True)
class Saving:
    """The same model as another variant: trained numbers, and multiply-adds for one input."""

    variant: str
    is_this: bool
    parameters: int
    multiply_adds: int


@dataclass(frozen=True)
class DeviceLimit:
    """What a device lets a process take, and what that means for an export. ``bytes`` is None where nobody knows."""

    device: str
    title: str
    name: str
    bytes: int | None
    status: Status
    target: str
    verdict: Verdict


@dataclass(frozen=True)
class OnNpu:
    """What an export means to a device's NPU, or to one that was asked for by its own name (``alone``)."""

    device: str
    title: str
    target: str
    alone: bool
    answer: NpuAnswer


@dataclass(frozen=True)
class EncoderReport:
    """Everything of an encoder's budget."""

    subject: str
    variant: str
    predictions: tuple[Prediction, ...]
    savings: tuple[Saving, ...]
    limits: tuple[DeviceLimit, ...]
    npus: tuple[OnNpu, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether nothing is known not to fit into a device's default limit, or not to run on an NPU asked for."""
        too_large = any(each.verdict == Verdict.NOT and each.name.startswith("default") for each in self.limits)
        return not too_large and not any(each.alone and each.answer.verdict == NpuVerdict.FAILS for each in self.npus)

    def to_json(self) -> dict[str, Any]:
        """The report as JSON values; sizes are in bytes."""
        return {
            "subject": self.subject,
            "variant": self.variant,
            "passed": self.passed,
            "predictions": [
                {
                    "target": each.target,
                    "label": each.label,
                    "peak_bytes": each.footprint.peak,
                    "assumed": each.footprint.assumes,
                    "terms": [asdict(term) for term in each.footprint.terms],
                }
                for each in self.predictions
            ],
            "variants": [asdict(each) for each in self.savings],
            "devices": [asdict(each) for each in self.limits],
            "npus": [asdict(each) for each in self.npus],
        }

    def lines(self, facts: Facts, table: Table) -> None:
        """Print it through the given functions: facts under a title, and tables."""
        for each in self.predictions:
            mine = [limit for limit in self.limits if limit.target == each.target]
            most = f"{amount(each.footprint.peak)}{ASSUMED if each.footprint.assumes else ''}"
            rows: list[tuple[str, object]] = [("the process, at most", most)]
            for limit in mine:
                size = "not known" if limit.bytes is None else amount(limit.bytes)
                name = f"{limit.title}, {limit.name}"
                rows.append((name, f"{size}{mark(limit.status)}: {limit.verdict}"))
            for npu in self.npus:
                if npu.target == each.target:
                    name = npu.answer.title if npu.alone else f"{npu.title}, {npu.answer.title}"
                    rows.append((name, f"{npu.answer.verdict} ({npu.answer.confidence})"))
                    rows += [(f"- {demand.name}", _told(demand)) for demand in npu.answer.constraints]
            facts(f"{self.subject} ({self.variant}) · {each.label}", rows)
            table(*term_rows(each.footprint, {"prefill": "run", "decode": "run"}))
        unshared = self.savings[0]
        table(
            ("variant", "parameters", "multiply-adds an input", "of qkv's parameters", "of qkv's multiply-adds"),
            [
                (
                    each.variant + (" (this)" if each.is_this else ""),
                    count(each.parameters),
                    count(each.multiply_adds),
                    f"{each.parameters / unshared.parameters:.1%}",
                    f"{each.multiply_adds / unshared.multiply_adds:.1%}",
                )
                for each in self.savings
            ],
        )


def budget_encoder(bundle: Bundle, device: str | Sequence[str] = (), devices: Path | None = None) -> EncoderReport:
    """Predict what each export of an encoder takes, and say what that means on devices.

    Args:
        bundle: a bundle that holds an encoder.
        device: names from the catalogue.
        devices: a file of the user's own devices, laid over the catalogue.

    Raises:
        InputError: the bundle holds a language model, or a device is unknown.
    """
    bundle.check_causal(wanted=False)
    catalogue = load_catalogue(devices)
    names = [catalogue.canonical(name) for name in ([device] if isinstance(device, str) else device)]
    card = bundle.manifest.model
    shape = ModelShape.of_card(card)
    predictions, limits, npus = [], [], []
    for target in bundle.targets:
        artifact = bundle.target(target).artifact
        prediction = _prediction(bundle.path, artifact)
        predictions.append(prediction)
        for name in dict.fromkeys(names):
            limits += _limits(name, catalogue.find(name), prediction)
            npus += _on_npu(name, catalogue, shape, artifact, prediction)
    return EncoderReport(
        subject=bundle.path.name,
        variant=card.variant,
        predictions=tuple(predictions),
        savings=_savings(shape, card.parameters),
        limits=tuple(limits),
        npus=tuple(npus),
    )


def encoder_bundle(subject: object) -> Bundle | None:
    """The subject, a bundle or its folder, if it holds an encoder."""
    if isinstance(subject, str | Path) and is_bundle(subject):
        subject = Bundle(subject)
    return subject if isinstance(subject, Bundle) and not subject.causal else None


def _prediction(directory: Path, artifact: Artifact) -> Prediction:
    footprint = Footprint(memory_of(backend(artifact.target)).exported(directory, artifact))
    label = f"{artifact.target} {artifact.form}, {artifact.weights} weights, batch {artifact.batch}"
    return Prediction(artifact.target, label, footprint)


def _told(demand: Constraint) -> str:
    met = {True: "met", False: "not met", None: "not known"}[demand.holds]
    return f"{met}{mark(demand.status)}: {demand.detail}"


def _on_npu(
    name: str, catalogue: Catalogue, shape: ModelShape, artifact: Artifact, prediction: Prediction
) -> list[OnNpu]:
    """What an export means to the NPU of a device; nothing, where none is known."""
    device = catalogue.find(name)
    alone = isinstance(device, Npu)
    npu_name = name if isinstance(device, Npu) else device.npu or ""
    if (npu := catalogue.npus.get(npu_name)) is None:
        return []
    plan, made = plan_of(shape, artifact, 0), artifact.compiled
    demands = constraints(npu_name, npu, plan, made, npu_part(prediction.footprint), exported=True)
    answer = NpuAnswer.of(npu_name, npu.title, demands, compiled=made is not None)
    return [OnNpu(name, device.title, prediction.target, alone, answer)]


def _limits(name: str, device: Device | Npu, prediction: Prediction) -> list[DeviceLimit]:
    """Of a device that runs apps; an NPU by itself has none."""
    if not isinstance(device, Device):
        return []
    found = []
    for label, fact in app_limits(device):
        size = None if fact.value is None else round(fact.value * GB)
        verdict = verdict_of(prediction.footprint.peak, size)
        found.append(DeviceLimit(name, device.title, label, size, fact.status, prediction.target, verdict))
    return found


def _savings(shape: ModelShape, parameters: int) -> tuple[Saving, ...]:
    """Every sharing of projections, the unshared one first."""
    rows = []
    for sharing in Sharing:
        variant = Variant(sharing, position_2d=shape.variant.position_2d)
        other = shape.with_variant(variant)
        saved = other.parameters - shape.parameters
        rows.append(Saving(str(variant), variant == shape.variant, parameters + saved, other.multiply_adds))
    return tuple(rows)
