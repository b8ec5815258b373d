"""The basis of the merged space, which is free: chosen so that rounding loses least.

What is stored of a position is ``s [D]``, and any invertible ``T`` may come between: ``T s`` is stored, and queries and
output take up ``T⁻¹``. An int8 state has one step for all of a tensor, so that its error has the same size in every
channel, and the step is as large as the channel that varies most makes it. If an error ``ε`` in ``s`` costs ``εᵀ N ε``,
then among all ``T`` whose channels vary alike, the cost is least for

    ``T = H · (C^½ N C^½)^¼ · C^-½``         (up to the eigenvectors between them)

with ``C`` the covariance of ``s``. It stretches what counts by the fourth root of how much, and the rotation ``H``, of
entries that are all as large, spreads that evenly over the channels, outliers included.
"""

from __future__ import annotations

import math

import torch

from edgeqkv.convert.subspace import powers

__all__ = ["even_rotation", "gauge"]

Tensor = torch.Tensor

_LEAST = 1e-4  # of the largest cost: what counts for nothing still gets a tenth of the range


def gauge(covariance: Tensor, cost: Tensor) -> Tensor:
    """``T [D, D]``, after which every channel varies by 1 and an error of one size in all of them costs least.

    ``covariance`` is that of what is stored, ``cost`` the quadratic form of an error in it; both ``[D, D]``.
    """
    root, whiten = powers(covariance, 0.5, -0.5)
    values, vectors = torch.linalg.eigh(root @ cost @ root)
    values = values.clamp_min(_LEAST * float(values.max()))
    stretch = values**0.25
    stretch = stretch / stretch.square().mean().sqrt()
    basis: Tensor = even_rotation(len(values)) @ (stretch[:, None] * vectors.T) @ whiten
    return basis


def even_rotation(size: int) -> Tensor:
    """An orthogonal matrix ``[size, size]`` whose entries are as alike in magnitude as we can make them.

    For powers of two they all are (Sylvester's matrix of Hadamard); an odd factor takes the discrete Hartley transform.
    """
    odd = size
    result = torch.ones(1, 1, dtype=torch.float64)
    while odd % 2 == 0:
        odd //= 2
        result = torch.kron(result, torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64))
    angles = 2 * math.pi / odd * torch.outer(torch.arange(odd), torch.arange(odd)).double()
    return torch.kron(result, angles.cos() + angles.sin()) / math.sqrt(size)
