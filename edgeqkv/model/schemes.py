"""Ways to store a matrix in few bits, as data; what knows of them needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

__all__ = ["INT4", "INT4_MULTIPLES", "INT8", "INT8_ROWS", "LUT4", "ROW", "Palette", "Scheme", "with_block"]

ROW: Final = 0
"""The block of a scheme whose scales are for whole rows."""


@dataclass(frozen=True)
class Scheme:
    """A way to quantize a matrix.

    Symmetric integers ``-2^(bits-1) … 2^(bits-1) - 1`` with one scale for every ``block`` of neighbouring values of
    a row: the input channels that a row's product sums over. As a target offers it, ``block`` is the largest one, or
    `ROW`; a matrix whose columns it does not divide is stored in smaller ones, of at least ``smallest``. Of which sizes
    a user can choose, ``blocks`` says; none: of no others.

    With ``multiples``, a block's scale is a whole multiple, 1 to so many, of a scale of its row. With ``activations``,
    the target rounds what it multiplies by such a matrix to so many bits, each token by itself.
    """

    name: str
    bits: int
    block: int
    smallest: int = 16
    multiples: int = 0
    activations: int = 0
    blocks: tuple[int, ...] = field(default=(), compare=False)

    @property
    def lowest(self) -> int:
        return -(1 << (self.bits - 1))

    @property
    def highest(self) -> int:
        return (1 << (self.bits - 1)) - 1


@dataclass(frozen=True)
class Palette:
    """Another way: every ``rows`` neighbouring rows share a table of ``2^bits`` values, and a code is a place in it."""

    name: str
    bits: int
    rows: int

    @property
    def entries(self) -> int:
        return 1 << self.bits


# Block sizes are the runtimes' common ground: ONNX Runtime's MatMulNBits and Core ML's blockwise scales take both.
INT8: Final = Scheme("int8", bits=8, block=128)
INT4: Final = Scheme("int4", bits=4, block=32, blocks=(32, 64, 128))

INT8_ROWS: Final = Scheme("int8", bits=8, block=ROW, smallest=1)
"""As XNNPACK takes int8."""

INT4_MULTIPLES: Final = Scheme("int4", bits=4, block=32, multiples=15)
"""As Qualcomm's Hexagon takes int4 in blocks ("LPBQ")."""

LUT4: Final = Palette("lut4", bits=4, rows=16)
"""16 rows to a table: on the demo model a table is then 1 part in 32 of the codes that look into it."""


def with_block(
    schemes: Mapping[str, Scheme | Palette | None], block: int | None
) -> Mapping[str, Scheme | Palette | None]:
    """The schemes with the block that was asked for, in those that have a choice; None: as they are."""
    if block is None:
        return schemes
    return {
        name: replace(scheme, block=block) if isinstance(scheme, Scheme) and scheme.blocks else scheme
        for name, scheme in schemes.items()
    }
