"""The budget of encoders: weights, activations and work, and what sharing projections saves of them.

There is no state, no context and no token after another, so that the report is a small one of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from edgeqkv.budget.answers import Verdict, judge
from edgeqkv.budget.devices import Device, Fact, load_catalogue
from edgeqkv.budget.files import encoder_terms
from edgeqkv.budget.footprint import Footprint, count
from edgeqkv.budget.npu import GB
from edgeqkv.budget.plan import runtime_term
from edgeqkv.budget.report import ASSUMED, amount, mark
from edgeqkv.bundle.bundle import Bundle
from edgeqkv.bundle.manifest import EncoderArtifact
from edgeqkv.errors import InputError
from edgeqkv.model.variants import Sharing, Variant

__all__ = [
    "EncoderReport",
    "Limit",
    "Prediction",
    "Saving",
    "budget_encoder",
    "encoder_bundle",
    "multiply_adds",
    "projections",
]

_PROJECTIONS: Final = {Sharing.QKV: 3, Sharing.Q_IS_K: 2, Sharing.K_IS_V: 2, Sharing.ALL: 1, Sharing.QVV3: 2}


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
class Limit:
    """What a device lets a process take, and what that means for an export. ``bytes`` is None where nobody knows."""

    device: str
    title: str
    name: str
    bytes: int | None
    status: str
    target: str
    verdict: Verdict


@dataclass(frozen=True)
class EncoderReport:
    """Everything of an encoder's budget."""

    subject: str
    variant: str
    predictions: tuple[Prediction, ...]
    savings: tuple[Saving, ...]
    limits: tuple[Limit, ...]

    @property
    def passed(self) -> bool:
        """Whether nothing is known not to fit into a device's default limit."""
        return not any(each.verdict == Verdict.NOT and each.name.startswith("default") for each in self.limits)

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
        }

    def lines(
        self,
        facts: Callable[[str, Sequence[tuple[str, object]]], None],
        table: Callable[[Sequence[str], Sequence[Sequence[object]]], None],
    ) -> None:
        """Print it through the given functions: facts under a title, and tables."""
        for each in self.predictions:
            mine = [limit for limit in self.limits if limit.target == each.target]
            told = f"{amount(each.footprint.peak)}{ASSUMED if each.footprint.assumes else ''}"
            rows: list[tuple[str, object]] = [("the process, at most", told)]
            for limit in mine:
                size = "not known" if limit.bytes is None else amount(limit.bytes)
                name = f"{limit.title}, {limit.name}"
                rows.append((name, f"{size}{mark(limit.status)}: {limit.verdict}"))
            facts(f"{self.subject} ({self.variant}) · {each.label}", rows)
            table(
                ("term", "size", "memory", "when", "formula"),
                [
                    (
                        term.name,
                        amount(term.bytes) + (ASSUMED if term.assumed else ""),
                        term.memory,
                        "always" if len(term.phases) == 3 else "load" if "load" in term.phases else "run",
                        term.formula,
                    )
                    for term in each.footprint.terms
                ],
            )
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
    """Predict what each export of an encoder takes, and judge it on devices.

    Args:
        bundle: a bundle that holds an encoder.
        device: names from the catalogue.
        devices: a file of the user's own devices, laid over the catalogue.

    Raises:
        InputError: the bundle holds a language model, or a device is unknown or an NPU.
    """
    catalogue = load_catalogue(devices)
    names = [catalogue.canonical(name) for name in ([device] if isinstance(device, str) else device)]
    card = bundle.manifest.model
    predictions = [_prediction(bundle.path, bundle.encoder(target).artifact) for target in bundle.targets]
    limits = [
        limit
        for name in dict.fromkeys(names)
        for prediction in predictions
        for limit in _limits(name, catalogue.find(name), prediction)
    ]
    return EncoderReport(
        subject=bundle.path.name,
        variant=card.variant,
        predictions=tuple(predictions),
        savings=_savings(Variant.parse(card.variant), card.parameters, card.config),
        limits=tuple(limits),
    )


def encoder_bundle(subject: object) -> Bundle | None:
    """The subject, a bundle or its folder, if it holds an encoder."""
    if isinstance(subject, str | Path) and Path(subject).is_dir():
        subject = Bundle(subject)
    return subject if isinstance(subject, Bundle) and subject.manifest.model.kind == "encoder" else None


def projections(variant: Variant) -> int:
    """Matrices that make queries, keys and values, in each layer of the export."""
    return _PROJECTIONS[variant.sharing]


def multiply_adds(config: Mapping[str, Any], variant: Variant) -> int:
    """Those of an encoder's matrix products for one input, in closed form.

    ``config`` has the fields of an `EncoderConfig`.
    """
    tokens, width, inner = config["tokens"], config["hidden_size"], config["intermediate_size"]
    input_ = config["input"]
    layer = tokens * width * width * (projections(variant) + 1) + 2 * tokens * tokens * width
    layer += 2 * tokens * width * inner
    match input_["kind"]:
        case "image":
            outside = (tokens - 1) * width * input_["channels"] * input_["patch"] ** 2 + width * config["classes"]
        case "features":
            outside = tokens * width * (input_["size"] + config["classes"])
        case _:
            outside = tokens * width * config["classes"]
    return int(config["layers"] * layer + outside)


def _prediction(directory: Path, artifact: EncoderArtifact) -> Prediction:
    footprint = Footprint((*encoder_terms(directory, artifact), runtime_term(artifact.target, artifact.form)))
    label = f"{artifact.target} {artifact.form}, {artifact.weights} weights, batch {artifact.batch}"
    return Prediction(artifact.target, label, footprint)


def _limits(name: str, device: Any, prediction: Prediction) -> list[Limit]:
    if not isinstance(device, Device):
        raise InputError(f"'{name}' is an NPU; an encoder's budget is of a process: name a phone, a tablet or a board")
    facts: tuple[tuple[str, Fact[float | None]], ...] = (
        ("default app limit", device.process_limit_default_gb),
        ("maximum app limit", device.process_limit_max_gb),
    )
    found = []
    for label, fact in facts:
        size = None if fact.value is None else round(fact.value * GB)
        verdict = judge(prediction.footprint.peak, size)
        found.append(Limit(name, device.title, label, size, fact.status, prediction.target, verdict))
    return found


def _savings(own: Variant, parameters: int, config: Mapping[str, Any]) -> tuple[Saving, ...]:
    """Every sharing of projections, the unshared one first."""
    projection = config["layers"] * (config["hidden_size"] ** 2 + config["hidden_size"])
    rows = []
    for sharing in Sharing:
        variant = Variant(sharing, position_2d=own.position_2d)
        more = projections(variant) - projections(own)
        rows.append(
            Saving(str(variant), variant == own, parameters + more * projection, multiply_adds(config, variant))
        )
    return tuple(rows)
