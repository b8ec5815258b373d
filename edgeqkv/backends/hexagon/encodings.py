"""How a tensor of few bits stands for real numbers: ``real = (code - zero) · scale``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

__all__ = ["ACTIVATION", "OPERAND", "STATE", "Code", "Encoding"]

Code = Literal["uint8", "uint16", "int16"]

ACTIVATION: Final[Code] = "uint16"
STATE: Final[Code] = "uint8"

OPERAND: Final[Code] = "int16"
"""Of the second operand of a product of two activations, where it is no state: of uint16 the compiler makes uint8."""

_LEAST: Final = 1e-6  # of a range that is a point


@dataclass(frozen=True)
class Encoding:
    """The code's type, the scale (a float32 number), and the code of zero."""

    code: Code
    scale: float
    zero: int

    @property
    def ends(self) -> tuple[float, float]:
        """The numbers of the least and the largest code."""
        codes = np.iinfo(self.code)
        return (int(codes.min) - self.zero) * self.scale, (int(codes.max) - self.zero) * self.scale

    @classmethod
    def of(cls, low: float, high: float, code: Code = ACTIVATION) -> Encoding:
        """That of a range, of which zero is always a number."""
        low, high = min(low, 0.0), max(high, 0.0)
        most = int(np.iinfo(code).max)
        scale = float(np.float32(max(high - low, _LEAST) / most))
        return cls(code, scale, int(np.clip(round(-low / scale), 0, most)))

    @classmethod
    def around_zero(cls, scale: float, code: Code = STATE) -> Encoding:
        """That of a signed code, moved by half the range: zero is in the middle."""
        return cls(code, float(np.float32(scale)), (int(np.iinfo(code).max) + 1) // 2)

    @classmethod
    def symmetric(cls, peak: float) -> Encoding:
        """That of a signed code, whose zero is 0."""
        return cls(OPERAND, float(np.float32(max(peak, _LEAST) / np.iinfo(OPERAND).max)), 0)

    def codes(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The nearest codes."""
        rounded = np.rint(np.asarray(values, np.float32) / np.float32(self.scale))
        ends = np.iinfo(self.code)
        codes: npt.NDArray[Any] = np.clip(rounded + self.zero, ends.min, ends.max).astype(self.code)
        return codes

    def times(self, factor: float) -> Encoding:
        """That of the numbers times a positive factor, whose codes are the same."""
        return Encoding(self.code, float(np.float32(self.scale * factor)), self.zero)
