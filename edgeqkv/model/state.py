"""How an int8 state rounds keys and values: data for the backends that store it and the reference that models it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import torch

__all__ = ["HIGHEST", "StateScales"]

HIGHEST: Final = 127
"""The code of the largest magnitude that was seen in calibration; what is larger is cut off there."""


@dataclass(frozen=True, eq=False)
class StateScales:
    """One symmetric scale for every state tensor.

    A merged tensor has one, because it is one tensor: its keys and values cannot be rounded differently.

    Attributes:
        of: a state tensor's name (``kv_3``, ``k_3``, ``v_3``) → its scale, a float32 number.
    """

    of: Mapping[str, float]

    def rounded(self, name: str, rows: torch.Tensor) -> torch.Tensor:
        """What a state tensor gives back of rows that were stored in it."""
        scale = self.of[name]
        return (rows / scale).round().clamp(-HIGHEST - 1, HIGHEST) * scale
