"""Several projections read through one: the shared subspace that loses least, and how each is restored from it.

A projection ``W [D, C]`` of inputs ``y`` becomes ``A S``, where ``S [D, C]`` is what all of them share and ``A [D, D]``
its own. What is lost is ``tr(P (W − A S) Σ (W − A S)ᵀ)``: ``Σ [C, C]`` says which inputs count, ``P [D, D]`` which
outputs. Everything is computed in float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

__all__ = ["Projection", "best_subspace", "mean_inputs", "powers", "restored", "rows_of"]

Tensor = torch.Tensor

_SMALLEST = 1e-7  # eigenvalues below this part of the largest count as that: a normalization leaves one at zero


@dataclass(frozen=True, eq=False)
class Projection:
    """One head's: ``weight [D, C]``, ``inputs [C, C]`` and ``outputs [D, D]``, both positive semidefinite."""

    weight: Tensor
    inputs: Tensor
    outputs: Tensor

    @property
    def energy(self) -> float:
        """What would be lost without it."""
        return self._norm(self.weight)

    def loss(self, restored: Tensor) -> float:
        """What is lost if it becomes ``restored [D, C]``."""
        return self._norm(self.weight - restored)

    def _norm(self, weight: Tensor) -> float:
        return float((self.outputs * (weight @ self.inputs @ weight.T)).sum())


def best_subspace(projections: Sequence[Projection], size: int) -> Tensor:
    """``[size, C]``: what the projections should share.

    The best there is if all had the same inputs up to a factor. Where they have not, they are weighed by the mean of
    them, which is close: what matters is which directions are weak for all.
    """
    root, inverse = powers(mean_inputs(projections), 0.5, -0.5)
    rows = torch.cat([rows_of(each, root) for each in projections])
    _, _, directions = torch.linalg.svd(rows, full_matrices=False)
    subspace: Tensor = directions[:size] @ inverse
    return subspace


def mean_inputs(projections: Sequence[Projection]) -> Tensor:
    """``[C, C]``: what counts on the whole, each with the same say."""
    total = torch.zeros_like(projections[0].inputs)
    for each in projections:
        total += each.inputs / each.inputs.trace()
    return total


def rows_of(projection: Projection, root: Tensor) -> Tensor:
    """``[D, C]``: a projection whose squares are what it would lose, for inputs whose covariance has this root."""
    (outputs,) = powers(projection.outputs, 0.5)
    return projection.inputs.trace().sqrt() * outputs @ projection.weight @ root


def restored(projection: Projection, shared: Tensor) -> Tensor:
    """``A [D, D]``, for which ``A @ shared`` loses least."""
    seen = projection.inputs @ shared.T
    solution: Tensor = torch.linalg.solve(shared @ seen, (projection.weight @ seen).T)
    return solution.T


def powers(matrix: Tensor, *exponents: float) -> list[Tensor]:
    """Powers of a symmetric positive semidefinite matrix."""
    values, vectors = torch.linalg.eigh(matrix)
    values = values.clamp_min(_SMALLEST * float(values.max().clamp_min(torch.finfo(values.dtype).tiny)))
    return [(vectors * values**exponent) @ vectors.T for exponent in exponents]
