"""What a footprint means on a device: does it fit, up to which context, as which variant, how fast at most."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final

from edgeqkv.backends.footprint import Footprint
from edgeqkv.budget import paper
from edgeqkv.budget.devices import Device, Fact, Npu, Status
from edgeqkv.budget.npu import GB, Constraint, constraints
from edgeqkv.budget.plan import Plan, footprint, npu_footprint, working_terms
from edgeqkv.bundle.manifest import Compiled
from edgeqkv.model.variants import Sharing, Variant

__all__ = [
    "HEADROOM",
    "Answer",
    "Candidate",
    "Limit",
    "Roofline",
    "VariantRow",
    "Verdict",
    "app_limits",
    "evaluate_on",
    "verdict_of",
]

HEADROOM: Final = 1.15
"""What is left free when something "fits": a tenth for the prediction's error, the rest for the app's own objects."""

_CURVE_POINTS = 33

_ON_NPU: Final = ("weights", "state", "activations")  # the terms that lie in its memory


class Verdict(StrEnum):
    """How a footprint and a limit compare. ``runs`` is of what was compiled for an NPU."""

    FITS = "fits"
    TIGHT = "tight"
    NOT = "does not fit"
    RUNS = "runs"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Candidate:
    """Something to be evaluated: an export, or the plan of one.

    Attributes:
        plan: what it is.
        footprint: what it takes.
        exported: whether its files were read.
        why: how it was chosen.
        npu: whether the footprint is of an NPU's memory, not of a process.
        compiled: what a chip's compiler made of it.
    """

    plan: Plan
    footprint: Footprint
    exported: bool
    why: str = ""
    npu: bool = False
    compiled: Compiled | None = field(default=None, compare=False)

    @classmethod
    def planned(cls, plan: Plan, *, why: str = "", npu: bool = False) -> Candidate:
        """What an export of this plan would take: of a process, or of an NPU's memory."""
        return cls(plan, npu_footprint(plan) if npu else footprint(plan), exported=False, why=why, npu=npu)

    def on_npu(self) -> Candidate:
        """The same, as far as it lies in an NPU's memory."""
        if self.compiled is not None:
            terms = tuple(term for term in self.footprint.terms if term.name in _ON_NPU)
            return replace(self, footprint=Footprint(terms), npu=True)
        return replace(Candidate.planned(self.plan, why=self.why, npu=True), exported=self.exported)

    @property
    def label(self) -> str:
        plan = self.plan
        return f"{plan.target} {plan.form}, {plan.weights} weights, {plan.state} state"

    def at_plan(self, context: int) -> Plan:
        """The plan with another context."""
        return self.plan.changed(context=context)

    def at(self, context: int) -> Footprint:
        """The footprint with another context: state and activations are planned, the rest is as it is."""
        if context == self.plan.context:
            return self.footprint
        plan = self.at_plan(context)
        planned = self.npu and self.compiled is None
        return npu_footprint(plan) if planned else self.footprint.with_terms(working_terms(plan))


@dataclass(frozen=True)
class Limit:
    """What a process may take, and what that means for the candidate. ``bytes`` is None where nobody knows.

    ``largest_context`` is None where the limit is unknown, 0 where not even one token fits.
    """

    name: str
    bytes: int | None
    status: Status
    note: str
    sources: tuple[str, ...]
    verdict: Verdict
    largest_context: int | None


@dataclass(frozen=True)
class VariantRow:
    """The same model as another variant, exported in the same way. ``curve``: context → peak, in bytes."""

    variant: str
    is_this: bool
    state_bytes: int
    reduction: float
    peak: int
    assumed: bool
    verdict: Verdict
    largest_context: int | None
    curve: tuple[tuple[int, int], ...]
    quality: paper.Quality | None


@dataclass(frozen=True)
class Roofline:
    """A bound on decoding: tokens a second if reading memory were all there is to do. Not a prediction."""

    tokens_per_second: float
    bytes_per_token: int
    bandwidth_gbs: float
    status: Status
    note: str
    sources: tuple[str, ...]


@dataclass(frozen=True)
class Answer:
    """All answers for one device and one candidate."""

    device: str
    title: str
    kind: str
    candidate: Candidate
    limits: tuple[Limit, ...]
    variants: tuple[VariantRow, ...]
    npu: str | None
    constraints: tuple[Constraint, ...]
    roofline: Roofline | None

    @property
    def verdict(self) -> Verdict:
        """Of an app's process, at the default limit; for an NPU, `npu_verdict`."""
        return self.npu_verdict or Verdict.UNKNOWN if self.kind == "npu" else self.limits[0].verdict

    @property
    def npu_verdict(self) -> Verdict | None:
        """Whether every demand of the NPU that is known is met; None for a device of whose NPU nothing is known."""
        if not self.constraints:
            return None
        if any(each.holds is False for each in self.constraints):
            return Verdict.NOT
        if not any(each.holds for each in self.constraints):
            return Verdict.UNKNOWN
        return Verdict.FITS if self.candidate.compiled is None else Verdict.RUNS


def verdict_of(peak: int, limit: int | None) -> Verdict:
    """Compare a peak with a limit, both in bytes."""
    if limit is None:
        return Verdict.UNKNOWN
    if peak > limit:
        return Verdict.NOT
    return Verdict.FITS if peak * HEADROOM <= limit else Verdict.TIGHT


def evaluate_on(name: str, device: Device | Npu, npus: dict[str, Npu], candidate: Candidate) -> Answer:
    """Say what a candidate means on a device; ``npus`` are the catalogue's, for the one that a phone has."""
    positions = candidate.plan.shape.positions
    if isinstance(device, Npu):
        candidate = candidate.on_npu()
        limits = tuple(_npu_limits(device, candidate, positions))
        npu_name, bandwidth = name, None
        kind = "npu"
    else:
        limits = tuple(_limit(label, fact, candidate, positions) for label, fact in app_limits(device))
        npu_name, bandwidth = device.npu or "", device.mem_bandwidth_gbs
        kind = device.kind
    npu = npus.get(npu_name)
    return Answer(
        device=name,
        title=device.title,
        kind=kind,
        candidate=candidate,
        limits=limits,
        variants=_variants(candidate, limits[0].bytes if limits else None, positions),
        npu=npu_name or None,
        constraints=_demands(npu_name, npu, candidate) if npu else (),
        roofline=_roofline(bandwidth, candidate.footprint) if bandwidth else None,
    )


def _demands(name: str, npu: Npu, candidate: Candidate) -> tuple[Constraint, ...]:
    needed = candidate.on_npu().footprint if candidate.compiled else None
    return constraints(name, npu, candidate.plan, candidate.compiled, needed, exported=candidate.exported)


def app_limits(device: Device) -> tuple[tuple[str, Fact[float | None]], ...]:
    """What a device lets an app's process take, by name, the default first."""
    return (
        ("default app limit", device.process_limit_default_gb),
        ("maximum app limit", device.process_limit_max_gb),
    )


def _npu_limits(npu: Npu, candidate: Candidate, positions: int) -> list[Limit]:
    fact = npu.per_session_limit_gb
    return [_limit("memory of one session", fact, candidate, positions)] if fact is not None else []


def _limit(name: str, fact: Fact[float | None], candidate: Candidate, positions: int) -> Limit:
    size = None if fact.value is None else round(fact.value * GB)
    return Limit(
        name=name,
        bytes=size,
        status=fact.status,
        note=fact.note,
        sources=fact.sources,
        verdict=verdict_of(candidate.footprint.peak, size),
        largest_context=_largest_context(candidate, size, positions),
    )


def _largest_context(candidate: Candidate, limit: int | None, positions: int) -> int | None:
    """The most tokens, up to the model's positions, with which the peak stays within the limit (0: none)."""
    if limit is None:
        return None
    low, high = 0, positions
    while low < high:  # the footprint grows with the context
        middle = (low + high + 1) // 2
        if candidate.at(middle).peak <= limit:
            low = middle
        else:
            high = middle - 1
    return low


def _curve(candidate: Candidate, positions: int) -> tuple[tuple[int, int], ...]:
    contexts = sorted({1, *(round(positions * i / (_CURVE_POINTS - 1)) or 1 for i in range(_CURVE_POINTS))})
    return tuple((context, candidate.at(context).peak) for context in contexts)


def _variants(candidate: Candidate, limit: int | None, positions: int) -> tuple[VariantRow, ...]:
    shape = candidate.plan.shape
    heads = shape.config.heads
    rows = []
    for variant in _family(shape.variant, heads):
        this = variant == shape.variant
        plan = candidate.plan if this else candidate.plan.with_variant(variant)
        other = candidate if this else Candidate.planned(plan, npu=candidate.npu)
        rows.append(
            VariantRow(
                variant=str(variant),
                is_this=this,
                state_bytes=sum(term.bytes for term in other.footprint.terms if term.name == "state"),
                reduction=float(variant.reduction(heads)),
                peak=other.footprint.peak,
                assumed=other.footprint.assumes,
                verdict=verdict_of(other.footprint.peak, limit),
                largest_context=_largest_context(other, limit, positions),
                curve=_curve(other, positions),
                quality=paper.quality(variant, heads, shape.parameters),
            )
        )
    return tuple(rows)


def _family(own: Variant, heads: int) -> tuple[Variant, ...]:
    """The variants to show: the paper's, with the model's own KV heads or else a quarter of its heads."""
    kv_heads = own.kv_heads_of(heads)
    grouped = kv_heads if 1 < kv_heads < heads else heads // 4
    family = [Variant(sharing) for sharing in (Sharing.QKV, Sharing.K_IS_V, Sharing.Q_IS_K, Sharing.ALL)]
    counts = [n for n in (grouped, 1) if 0 < n < heads and heads % n == 0]
    family += [Variant(sharing, n) for n in dict.fromkeys(counts) for sharing in (Sharing.QKV, Sharing.K_IS_V)]
    return tuple(dict.fromkeys([*family, own]))


def _roofline(bandwidth: Fact[float | None], predicted: Footprint) -> Roofline | None:
    if bandwidth.value is None:
        return None
    return Roofline(
        tokens_per_second=bandwidth.value * GB / predicted.streamed,
        bytes_per_token=predicted.streamed,
        bandwidth_gbs=bandwidth.value,
        status=bandwidth.status,
        note=bandwidth.note,
        sources=bandwidth.sources,
    )
