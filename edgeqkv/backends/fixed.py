"""What targets share whose graphs have fixed shapes and whole numbers in them, as those of NPUs have."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, TypeVar

from edgeqkv.backends.target import TargetSpec
from edgeqkv.model.activations import ActivationRanges
from edgeqkv.model.layers import Norm, Rope
from edgeqkv.model.model import Model
from edgeqkv.model.ops import Ops
from edgeqkv.progress import Progress
from edgeqkv.reference.observing import observe, sequences_of

__all__ = ["FEATURES", "FixedOps", "graphs_of", "observed"]

V = TypeVar("V")

FEATURES: Final = frozenset(
    {
        "the activation gelu_tanh",
        "the activation silu",
        "the activation relu",
        "layers with different heads",
        "layers that share differently",
        "a logit softcap",
    }
)
"""What the graphs can express beyond the plainest model (`edgeqkv.backends.features`)."""


def observed(model: Model, spec: TargetSpec, on_progress: Progress) -> ActivationRanges:
    """How far each of the model's results reaches, on the examples of the export."""
    assert spec.examples is not None, "the target says that it needs them"
    inputs = sequences_of(spec.examples, int(spec.context or 1)) if model.causal else list(spec.examples)
    return observe(model, inputs, on_progress)


def graphs_of(model: Model, spec: TargetSpec) -> Iterator[tuple[str, int]]:
    """Name and tokens of every graph."""
    if not model.causal:
        yield "model", 1
        return
    if (chunk := spec.chunk or 1) > 1:
        yield "prefill", chunk
    yield "decode", 1


class FixedOps(Ops[V]):
    """Without rotated positions, and without rows that are key and value at once: `FEATURES` has neither."""

    def placed(self, x: V, heads: int, dim: int, norm: Norm | None, rope: Rope | None) -> V:
        raise NotImplementedError

    def part(self, x: V, heads: int, dim: int, start: int, stop: int) -> V:
        raise NotImplementedError

    def join(self, parts: Sequence[V], heads: int, dims: Sequence[int]) -> V:
        raise NotImplementedError

    def pad(self, x: V, heads: int, dim: int, count: int) -> V:
        raise NotImplementedError
