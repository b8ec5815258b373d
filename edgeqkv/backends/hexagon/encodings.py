"""How a tensor of few bits stands for real numbers: ``real = (code - zero) · scale``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

__all__ = ["ACTIVATION", "STATE", "Code", "Encoding"]

Code = Literal["uint8", "uint16"]

ACTIVATION: Final[Code] = "uint16"
STATE: Final[Code] = "uint8"

_LEAST: Final = 1e-6  # of a range that is a point


@dataclass(frozen=True)
class Encoding:
    """The code's type, the scale (a float32 number), and the code of zero."""

    code: Code
    scale: float
    zero: int

    @property
    def most(self) -> int:
        """The largest code."""
        return int(np.iinfo(self.code).max)

    @property
    def ends(self) -> tuple[float, float]:
        """The numbers of the least and the largest code."""
        return -self.zero * self.scale, (self.most - self.zero) * self.scale

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

    def codes(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The nearest codes."""
        rounded = np.rint(np.asarray(values, np.float32) / np.float32(self.scale))
        codes: npt.NDArray[Any] = np.clip(rounded + self.zero, 0, self.most).astype(self.code)
        return codes

    def times(self, factor: float) -> Encoding:
        """That of the numbers times a positive factor, whose codes are the same."""
        return Encoding(self.code, float(np.float32(self.scale * factor)), self.zero)
