"""Several projections read through one: the shared subspace that loses least, and how each is restored from it.

A projection ``W [D, C]`` of inputs ``y`` becomes ``A S``, where ``S [D, C]`` is what all of them share and ``A [D, D]``
its own. What is lost is ``tr(P (W − A S) Σ (W − A S)ᵀ)``: ``Σ [C, C]`` says which inputs count, ``P [D, D]`` which
outputs. Everything is computed in float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from edgeqkv.model import storage

__all__ = ["Projection", "best_subspace", "factor", "mean_inputs", "powers", "restored", "rows_of"]

Tensor = torch.Tensor

_SMALLEST = 1e-7  # eigenvalues below this part of the largest count as that: a normalization leaves one at zero


@dataclass(frozen=True, eq=False)
class Projection:
    """One head's.

    Attributes:
        weight: ``[D, C]``.
        inputs: ``[C, C]``, positive semidefinite, as it was seen, in any floating-point type.
        outputs: ``[D, D]``, positive semidefinite.
        ridge: ``[C, C]``, of which as much is added to the inputs as their trace is; None: nothing.
    """

    weight: Tensor
    inputs: Tensor
    outputs: Tensor
    ridge: Tensor | None = None

    def metric(self) -> Tensor:
        """``[C, C]``, which inputs count. Made anew each time: of all heads together it would take a model's memory."""
        inputs = self.inputs.double()
        storage.give_back(self.inputs)  # as long as the next head is looked at, where it lies in a file
        return inputs if self.ridge is None else torch.add(inputs, self.ridge, alpha=self._trace)

    @property
    def size(self) -> float:
        """The trace of `metric`."""
        return self._trace if self.ridge is None else self._trace * (1 + float(self.ridge.trace()))

    @property
    def _trace(self) -> float:
        return float(self.inputs.diagonal().sum(dtype=torch.float64))

    @property
    def energy(self) -> float:
        """What would be lost without it."""
        return self._norm(self.weight)

    def loss(self, restored: Tensor) -> float:
        """What is lost if it becomes ``restored [D, C]``."""
        return self._norm(self.weight - restored)

    def _norm(self, weight: Tensor) -> float:
        return float((self.outputs * (weight @ self.metric() @ weight.T)).sum())


def best_subspace(projections: Sequence[Projection], size: int) -> Tensor:
    """``[size, C]``: what the projections should share.

    The best there is if all had the same inputs up to a factor. Where they have not, they are weighed by the mean of
    them, which is close: what matters is which directions are weak for all.
    """
    root = factor(mean_inputs(projections))
    rows = torch.cat([rows_of(each, root) for each in projections])
    _, _, directions = torch.linalg.svd(rows, full_matrices=False)
    # directions @ root⁻¹
    subspace: Tensor = torch.linalg.solve_triangular(root, directions[:size], upper=False, left=False)
    return subspace


def mean_inputs(projections: Sequence[Projection]) -> Tensor:
    """``[C, C]``: what counts on the whole, each with the same say."""
    total = torch.zeros_like(projections[0].inputs, dtype=torch.float64)
    for each in projections:
        total.add_(each.metric(), alpha=1 / each.size)
    return total


def factor(matrix: Tensor) -> Tensor:
    """``L`` with ``L Lᵀ`` the positive semidefinite matrix: as good as its square root here, and much faster."""
    least = _SMALLEST * float(matrix.diagonal().max().clamp_min(torch.finfo(matrix.dtype).tiny))
    # As many directions count for nothing (a normalization leaves one), rounding leaves some below zero.
    for larger in (1.0, 1e2, 1e4):
        found, failed = torch.linalg.cholesky_ex(matrix + larger * least * torch.eye(len(matrix), dtype=matrix.dtype))
        if not failed:
            break
    result: Tensor = found
    return result


def rows_of(projection: Projection, root: Tensor) -> Tensor:
    """``[D, C]``: a projection whose squares are what it would lose, for inputs of which this is `factor`."""
    (outputs,) = powers(projection.outputs, 0.5)
    rows: Tensor = projection.size**0.5 * outputs @ projection.weight @ root
    return rows


def restored(projection: Projection, shared: Tensor) -> Tensor:
    """``A [D, D]``, for which ``A @ shared`` loses least."""
    seen = projection.metric() @ shared.T
    solution: Tensor = torch.linalg.solve(shared @ seen, (projection.weight @ seen).T)
    return solution.T


def powers(matrix: Tensor, *exponents: float) -> list[Tensor]:
    """Powers of a symmetric positive semidefinite matrix."""
    values, vectors = torch.linalg.eigh(matrix)
    values = values.clamp_min(_SMALLEST * float(values.max().clamp_min(torch.finfo(values.dtype).tiny)))
    return [(vectors * values**exponent) @ vectors.T for exponent in exponents]
