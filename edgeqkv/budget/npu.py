"""What an NPU demands of an export, and whether the export meets it: each demand by name."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from edgeqkv.backends import backend
from edgeqkv.backends.footprint import Footprint
from edgeqkv.budget.devices import Npu, Status
from edgeqkv.budget.plan import Plan, npu_footprint
from edgeqkv.budget.speed import GB
from edgeqkv.bundle.manifest import Compiled
from edgeqkv.model.config import EncoderConfig

__all__ = ["Constraint", "constraints"]

_MIB: Final = 1 << 20
_ANE_MULTIPLE: Final = 32
_ANE_MULTIPLE_SOURCE: Final = "https://github.com/apple/coremltools/issues/2631"


@dataclass(frozen=True)
class Constraint:
    """A demand. ``holds`` is None where it cannot be told; ``status`` is how the demand is known."""

    name: str
    holds: bool | None
    detail: str
    status: Status
    sources: tuple[str, ...]


def constraints(
    name: str,
    npu: Npu,
    plan: Plan,
    compiled: Compiled | None = None,
    needed: Footprint | None = None,
    *,
    exported: bool = False,
) -> tuple[Constraint, ...]:
    """All demands of an NPU that are known, in the light of an export.

    Args:
        name: the NPU's.
        npu: what is known of it.
        plan: the export.
        compiled: what a compiler made of it, if one did.
        needed: what of it lies in the NPU's memory, as the files say; planned if not given.
        exported: whether it exists, so that it was compiled by now, or was not.
    """
    found = list(_constraints(name, npu, plan, compiled, needed or npu_footprint(plan)))
    if plan.spec.soc is not None:
        found.insert(1, _compiled_for(name, npu, plan, compiled, exported=exported))
    if told := backend(plan.target).experimental.get(plan.form):
        found.append(Constraint("accuracy", None, told, "unknown", ()))
    return tuple(found)


def _constraints(
    name: str, npu: Npu, plan: Plan, compiled: Compiled | None, footprint: Footprint
) -> Iterator[Constraint]:
    yield _dtype(npu, plan)
    if (static := npu.static_shapes_only) is not None and static.value:
        holds = _is_static(plan)
        told = "every shape is a number" if holds else f"form '{plan.form}' takes calls of any length"
        yield Constraint("static shapes", holds, told, static.status, static.sources)
    if (limits := npu.max_dim) is not None and limits.value is not None:
        largest, what = max(_dimensions(plan))
        limit = min(limits.value.values())
        told = f"{what} is {largest}, the limit {limit}"
        yield Constraint("largest dimension", largest <= limit, told, limits.status, limits.sources)
    causal = plan.spec.state is not None
    if causal and name.startswith("ane-"):
        head_dim = plan.shape.config.head_dim
        odd = [size for size in (plan.context, head_dim) if size % _ANE_MULTIPLE]
        told = f"the state is {plan.context} × {head_dim}; multiples of {_ANE_MULTIPLE} are needed"
        yield Constraint("state dimensions", not odd, told, "community-measured", (_ANE_MULTIPLE_SOURCE,))
    if causal and (state := npu.state_dtype) is not None:
        told = f"the state is {plan.state}, {state.value} is what works"
        yield Constraint("state type", plan.state == state.value, told, state.status, state.sources)
    if (session := npu.per_session_limit_gb) is not None and session.value is not None:
        needed = footprint.peak
        told = f"weights, state and activations are {needed / GB:.2f} GB, a session maps {session.value:g} GB"
        yield Constraint("session memory", needed <= session.value * GB, told, session.status, session.sources)
    if npu.vtcm_mb is not None and compiled is not None:
        asked, spilled = compiled.fast_memory_bytes / _MIB, max(compiled.spill_bytes.values(), default=0)
        told = f"compiled for {asked:g} MiB of VTCM, it has {npu.vtcm_mb.value:g}; {spilled / _MIB:.1f} MiB spill"
        fact = npu.vtcm_mb
        yield Constraint("fast memory", asked <= fact.value, told, fact.status, fact.sources)
    if npu.toolchain is not None:
        told = f"not checked: {npu.toolchain.value}"
        yield Constraint("toolchain", None, told, npu.toolchain.status, npu.toolchain.sources)


def _dtype(npu: Npu, plan: Plan) -> Constraint:
    known = npu.compute_dtypes
    computes = plan.memory.computes
    if known.value is None:
        told = f"the export computes in {computes}; what the NPU takes is not published"
        return Constraint("compute type", None, told, known.status, known.sources)
    holds = any(dtype.startswith(computes) for dtype in known.value)
    told = f"the export computes in {computes}, the NPU in {', '.join(known.value)}"
    return Constraint("compute type", holds, told, known.status, known.sources)


def _compiled_for(name: str, npu: Npu, plan: Plan, compiled: Compiled | None, *, exported: bool) -> Constraint:
    """Whether an export for one chip is for this one: another may not load it, or give other numbers."""
    locked = npu.context_binary_arch_locked
    status: Status = "unknown" if locked is None else locked.status
    sources = () if locked is None else locked.sources
    soc = plan.spec.soc
    if name != plan.target and name.rpartition("-")[2] != soc:  # an NPU of several sizes has the target's name
        return Constraint("compiled for it", False, f"it is for {soc}, and this is {npu.title}", status, sources)
    if compiled is None:
        told = (
            "not compiled: the compiler was not installed where it was exported" if exported else f"planned for {soc}"
        )
        return Constraint("compiled for it", None if exported else True, told, status, sources)
    run = ", and run in the vendor's simulation" if compiled.calls else ""
    told = f"{compiled.binary}, by {compiled.compiler}{run}; nothing has run on a chip"
    return Constraint("compiled for it", True, told, status, sources)


def _is_static(plan: Plan) -> bool:
    return any(form.static for form in backend(plan.target).forms if form.name == plan.form)


def _dimensions(plan: Plan) -> Iterator[tuple[int, str]]:
    """The dimensions that can be too large; some forms split the vocabulary."""
    config = plan.shape.config
    if isinstance(config, EncoderConfig):
        yield config.tokens, "the number of tokens"
    else:
        yield plan.context, "the context"
    yield config.intermediate_size, "the MLP's width"
    yield config.hidden_size, "the hidden size"
    if config.vocab_size and not plan.memory.splits_tables(plan.form):
        yield config.vocab_size, "the vocabulary"
