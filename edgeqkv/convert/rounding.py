"""Learning for what comes next: the student sees the rounding that an export will do.

Weights are rounded to nearest in the schemes that most targets share, the state to int8. Gradients pass both as if they
were not there (Bengio et al. 2013, arXiv 1308.3432), so that what learns are the numbers before rounding. An int8
state's scale is the export's to choose; here it is that of the batch's largest number.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import torch

from edgeqkv.errors import InputError
from edgeqkv.model.model import Model
from edgeqkv.model.schemes import Scheme
from edgeqkv.model.state import HIGHEST
from edgeqkv.model.weights import QuantizedWeight, Weight
from edgeqkv.quantize import QuantConfig, apply
from edgeqkv.quantize.nearest import nearest
from edgeqkv.quantize.state import with_state
from edgeqkv.reading import shortened
from edgeqkv.reference.ops import TorchOps

__all__ = ["Rounding", "ValuesOps"]

Tensor = torch.Tensor

_WEIGHTS: Final = ("int4", "int8")
_STATE: Final = "int8-state"


@dataclass(frozen=True)
class Rounding:
    """What will be rounded.

    Attributes:
        weights: ``int4``, ``int8``, or ``fp32`` for not at all.
        state: ``int8``, or ``fp32`` for not at all.
    """

    weights: str = "fp32"
    state: str = "fp32"

    @classmethod
    def parse(cls, text: str) -> Rounding:
        """As it is written on a command line: ``int4``, ``int8-state``, or both with a comma between.

        Raises:
            InputError: it names something else.

        >>> Rounding.parse("int4,int8-state")
        Rounding(weights='int4', state='int8')
        """
        parts = text.split(",")
        weights = [part for part in parts if part in _WEIGHTS]
        state = parts.count(_STATE)
        if len(weights) > 1 or state > 1 or len(weights) + state < len(parts):
            raise InputError(
                f"--distill-for {shortened(text)} is unknown; give int4 or int8 (weights), int8-state, or both: "
                f"int4,int8-state"
            )
        return cls(weights[0] if weights else "fp32", "int8" if state else "fp32")

    def schemes(self, model: Model) -> Mapping[Weight, Scheme]:
        """How each weight will be rounded that will be.

        Raises:
            UnsupportedError: its matrices cannot be.
        """
        stored = apply(model, QuantConfig(self.weights))
        pairs = zip(model.weights, stored.weights, strict=True)
        return {weight: found.scheme for weight, found in pairs if isinstance(found, QuantizedWeight)}

    def stored(self, model: Model, tokens: npt.NDArray[np.int64]) -> Model:
        """The model as an export rounds it; tokens of a text give an int8 state its scales."""
        return with_state(apply(model, QuantConfig(self.weights)), self.state, tokens)


class ValuesOps(TorchOps):
    """Computes with numbers that lie elsewhere than in the weights, rounded as they will be."""

    def __init__(
        self, numbers: Mapping[Weight, Tensor], schemes: Mapping[Weight, Scheme] | None = None, state: str = "fp32"
    ) -> None:
        self._numbers = dict(numbers)
        self._state = state
        for weight, scheme in (schemes or {}).items():
            self._numbers[weight] = _through(numbers[weight], _rounded(numbers[weight], scheme))

    def values(self, weight: Weight) -> Tensor:
        return self._numbers[weight]

    def kept(self, name: str, rows: Tensor) -> Tensor:
        if self._state == "fp32":
            return rows
        scale = (rows.detach().abs().amax() / HIGHEST).clamp_min(torch.finfo(rows.dtype).tiny)
        return _through(rows, (rows.detach() / scale).round() * scale)


@torch.no_grad()
def _rounded(numbers: Tensor, scheme: Scheme) -> Tensor:
    return nearest(Weight("", numbers), scheme).values()


def _through(numbers: Tensor, rounded: Tensor) -> Tensor:
    """What was rounded, with the gradient of what was not."""
    return numbers + (rounded - numbers).detach()
