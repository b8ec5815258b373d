"""What an NPU demands of an export, and whether the export meets it: each demand by name."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from edgeqkv.backends import backend
from edgeqkv.budget.devices import Npu, Status
from edgeqkv.budget.plan import Plan, npu_footprint
from edgeqkv.budget.speed import GB

__all__ = ["Constraint", "constraints"]

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


def constraints(name: str, npu: Npu, plan: Plan) -> tuple[Constraint, ...]:
    """All demands of an NPU that are known, in the light of an export."""
    return tuple(_constraints(name, npu, plan))


def _constraints(name: str, npu: Npu, plan: Plan) -> Iterator[Constraint]:
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
    if name.startswith("ane-"):
        head_dim = plan.shape.config.head_dim
        odd = [size for size in (plan.context, head_dim) if size % _ANE_MULTIPLE]
        told = f"the state is {plan.context} × {head_dim}; multiples of {_ANE_MULTIPLE} are needed"
        yield Constraint("state dimensions", not odd, told, "community-measured", (_ANE_MULTIPLE_SOURCE,))
    if (state := npu.state_dtype) is not None:
        told = f"the state is {plan.state}, {state.value} is what works"
        yield Constraint("state type", plan.state == state.value, told, state.status, state.sources)
    if (session := npu.per_session_limit_gb) is not None and session.value is not None:
        needed = npu_footprint(plan).peak
        told = f"weights, state and activations are {needed / GB:.2f} GB, a session maps {session.value:g} GB"
        yield Constraint("session memory", needed <= session.value * GB, told, session.status, session.sources)
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


def _is_static(plan: Plan) -> bool:
    return any(form.static for form in backend(plan.target).forms if form.name == plan.form)


def _dimensions(plan: Plan) -> Iterator[tuple[int, str]]:
    """The dimensions that can be too large; some forms split the vocabulary."""
    config = plan.shape.config
    yield plan.context, "the context"
    yield config.intermediate_size, "the MLP's width"
    yield config.hidden_size, "the hidden size"
    if config.vocab_size and not plan.memory.splits_tables(plan.form):
        yield config.vocab_size, "the vocabulary"
