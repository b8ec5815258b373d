"""What a footprint means on a device: does it fit, up to which context, as which variant, how fast at most."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Final

from edgeqkv.backends.footprint import Footprint
from edgeqkv.budget import paper
from edgeqkv.budget.devices import STATUSES, Device, Fact, Npu, Status
from edgeqkv.budget.npu import Constraint, constraints
from edgeqkv.budget.plan import Plan, footprint, npu_footprint, working_terms
from edgeqkv.budget.remedies import Remedy, largest_context, remedies
from edgeqkv.budget.speed import GB, Roofline, roofline
from edgeqkv.budget.verdicts import Confidence, NpuVerdict, Verdict, confidence_of, verdict_of
from edgeqkv.bundle.manifest import Compiled
from edgeqkv.model.state import kept_by_layers
from edgeqkv.model.variants import Sharing, Variant

__all__ = ["Answer", "Candidate", "Limit", "NpuAnswer", "VariantRow", "app_limits", "evaluate_on", "npu_part"]

_CURVE_POINTS: Final = 33

_ON_NPU: Final = ("weights", "state", "activations")  # the terms that lie in its memory

_OF_NPU: Final = {
    NpuVerdict.RUNS: Verdict.FITS,
    NpuVerdict.MEETS: Verdict.FITS,
    NpuVerdict.FAILS: Verdict.NOT,
    NpuVerdict.OPEN: Verdict.UNKNOWN,
}


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
            return replace(self, footprint=npu_part(self.footprint), npu=True)
        return replace(Candidate.planned(self.plan, why=self.why, npu=True), exported=self.exported)

    @property
    def label(self) -> str:
        plan = self.plan
        return f"{plan.target} {plan.form}, {plan.weights} weights, {plan.state} state"

    @property
    def kept(self) -> tuple[str, ...]:
        """What the layers keep, in words."""
        return kept_by_layers(self.plan.shape.network.blocks)

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
class NpuAnswer:
    """What an export means to an NPU: each of its demands, and all of them together."""

    name: str
    title: str
    verdict: NpuVerdict
    confidence: Confidence
    constraints: tuple[Constraint, ...]

    @property
    def failing(self) -> tuple[Constraint, ...]:
        return tuple(each for each in self.constraints if each.holds is False)

    @classmethod
    def of(cls, name: str, title: str, found: tuple[Constraint, ...], *, compiled: bool = False) -> NpuAnswer:
        """From the demands that are known; ``compiled`` says that its compiler took the export whole."""
        failing = [each for each in found if each.holds is False]
        met = [each for each in found if each.holds]
        fine = NpuVerdict.RUNS if compiled else NpuVerdict.MEETS
        verdict = NpuVerdict.FAILS if failing else fine if met else NpuVerdict.OPEN
        # One demand that surely fails is enough; to be met, all have to be.
        statuses = [min((each.status for each in failing), key=STATUSES.index)] if failing else [e.status for e in met]
        return cls(name, title, verdict, confidence_of(statuses, assumes=verdict == NpuVerdict.OPEN), found)


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
    on_npu: NpuAnswer | None
    roofline: Roofline | None
    remedies: tuple[Remedy, ...]
    system: str = ""

    @property
    def constraints(self) -> tuple[Constraint, ...]:
        """The NPU's demands."""
        return self.on_npu.constraints if self.on_npu else ()

    @property
    def limit(self) -> Limit | None:
        """The one that a verdict is about: of an app that asks for nothing more."""
        return self.limits[0] if self.limits else None

    @property
    def verdict(self) -> Verdict:
        """At the default limit; for an NPU, whether every demand that is known is met."""
        if self.kind != "npu":
            return self.limits[0].verdict
        return _OF_NPU[self.npu_verdict or NpuVerdict.OPEN]

    @property
    def npu_verdict(self) -> NpuVerdict | None:
        """What it means to the device's NPU; None for a device of whose NPU nothing is known."""
        return self.on_npu.verdict if self.on_npu else None

    @property
    def confidence(self) -> Confidence:
        """How what the verdict rests on is known."""
        if self.kind == "npu":
            return self.on_npu.confidence if self.on_npu else Confidence.ASSUMED
        return confidence_of([self.limits[0].status], assumes=self.candidate.footprint.assumes)


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
    known = limits[0].bytes if limits else None
    return Answer(
        device=name,
        title=device.title,
        kind=kind,
        candidate=candidate,
        limits=limits,
        variants=_variants(candidate, known, positions),
        npu=npu_name or None,
        on_npu=_on_npu(npu_name, npu, candidate) if npu else None,
        roofline=roofline(bandwidth, candidate.footprint) if bandwidth else None,
        remedies=remedies(candidate.footprint, candidate.plan, known, exported=candidate.exported, npu=candidate.npu),
        system="" if isinstance(device, Npu) else device.system,
    )


def _on_npu(name: str, npu: Npu, candidate: Candidate) -> NpuAnswer:
    compiled = candidate.compiled
    needed = candidate.on_npu().footprint if compiled else None
    demands = constraints(name, npu, candidate.plan, compiled, needed, exported=candidate.exported)
    return NpuAnswer.of(name, npu.title, demands, compiled=compiled is not None)


def npu_part(footprint: Footprint) -> Footprint:
    """What of an export's memory is an NPU's."""
    return Footprint(tuple(term for term in footprint.terms if term.name in _ON_NPU))


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
    """The most tokens with which the peak stays within the limit (0: none)."""
    return None if limit is None else largest_context(lambda context: candidate.at(context).peak, limit, positions)


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
