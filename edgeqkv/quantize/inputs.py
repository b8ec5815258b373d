"""What a matrix is multiplied by when it is calibrated, and what follows from that for how it is to be rounded."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch

from edgeqkv.model.weights import Weight

__all__ = ["Inputs"]

Tensor = torch.Tensor

# Added to the diagonal of the second moments, as a part of its mean: keeps the inverse sane where an input channel
# hardly varies. A tenth of the paper's: with tens of thousands of samples for at most a few thousand channels the
# moments are well known, and more damping only brings the result closer to rounding.
_DAMPING = 0.001

# The same for the least squares by which a matrix makes up for the layers before it, where less would fit the noise of
# the samples. Chosen on text that no figure is reported on, as is the number of sequences.
_CORRECTION_DAMPING = 0.1


@dataclass(frozen=True)
class Inputs:
    """What a matrix is multiplied by.

    Attributes:
        x: as the quantized layers before it produce it, ``[samples, columns]``.
        wanted: what the original is given in the same places; None: the same.
        alike: what every column counts besides, as a sum of squares.
    """

    x: Tensor
    wanted: Tensor | None = None
    alike: float = 0.0

    @cached_property
    def moments(self) -> Tensor:
        """``[columns, columns]``, float64: those of few samples are nearly singular."""
        moments = (self.x.T @ self.x).double()
        moments.diagonal().add_(self.alike)
        return moments

    @cached_property
    def weighed(self) -> Tensor:
        """What errors cost: ``e · weighed · e`` of a row's errors ``e``. ``[columns, columns]``."""
        return _damped(self.moments, _DAMPING).float()

    @cached_property
    def spread(self) -> Tensor:
        """How an error in one column is best made up for in later ones: the Cholesky factor of the inverse moments.

        ``[columns, columns]``, upper triangular.
        """
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(_damped(self.moments, _DAMPING)))
        factor: Tensor = torch.linalg.cholesky(inverse, upper=True)
        return factor.float()

    @cached_property
    def importance(self) -> Tensor:
        """What is left of the cost of an error in each column once later columns have made up for it, ``[columns]``."""
        return self.spread.diagonal().square().reciprocal()

    @cached_property
    def correction(self) -> Tensor | None:
        """``[columns, columns]``: of a matrix W, W + W · this makes of ``x`` what comes closest to W · ``wanted``."""
        if self.wanted is None:
            return None
        missing = ((self.wanted - self.x).T @ self.x).double()
        factor = torch.linalg.cholesky(_damped(self.moments, _CORRECTION_DAMPING))
        return torch.cholesky_solve(missing.T, factor).T.float()

    def target(self, weight: Weight, rows: slice = slice(None)) -> Tensor:
        """Rows of the matrix that is to be rounded, in float32 and for the taking."""
        values = weight.tensor[rows].float().clone(memory_format=torch.contiguous_format)
        return values if self.correction is None else torch.addmm(values, values, self.correction)


def _damped(moments: Tensor, damping: float) -> Tensor:
    mean = moments.diagonal().mean()
    return moments + (damping * mean if mean else 1.0) * torch.eye(len(moments))  # of inputs that are zero, any will do
