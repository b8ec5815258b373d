"""The one file that holds the weights of all graphs of an export."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import onnx_ir as ir
import torch

from edgeqkv.model.weights import QuantizedWeight, Weight

__all__ = ["WeightFile", "packed"]

_FLOATS = {"fp32": ir.DataType.FLOAT, "fp16": ir.DataType.FLOAT16}

# Large tensors start on a page, so that a runtime can map them; 16 KiB is the largest page size among the
# targets (Apple silicon, Android 15). Small ones are packed.
_PAGE, _PACKED, _LARGE = 16384, 64, 1 << 20


class WeightFile:
    """Writes weights as they are first asked for, one at a time, and hands out references to them.

    The weights stream from the mapped checkpoint to the file, so that no more than one is in memory.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("wb")
        self._places: dict[str, int] = {}
        self._layouts: set[tuple[int, int]] = set()

    @property
    def layouts(self) -> list[list[int]]:
        """The bits of a code and the codes to a scale of all quantized weights in it, each pair once."""
        return [list(layout) for layout in sorted(self._layouts)]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def tensor(self, weight: Weight) -> ir.ExternalTensor:
        """A reference to a weight's floating-point values, which are written if they were not yet."""
        reference = self._refer(weight.name, weight.shape, _FLOATS[weight.precision], weight.stored)
        weight.release_pages()
        return reference

    def codes(self, weight: QuantizedWeight, shape: Sequence[int]) -> ir.ExternalTensor:
        """A reference to a weight's packed codes, seen as uint8 of any shape with as many bytes.

        Two views of the same codes are one place in the file.
        """
        self._layouts.add((weight.scheme.bits, weight.scheme.block))
        return self._refer(f"{weight.name}.codes", shape, ir.DataType.UINT8, lambda: packed(weight))

    def scales(self, weight: QuantizedWeight) -> ir.ExternalTensor:
        """A reference to a weight's scales, ``[rows, blocks]``."""
        return self._refer(f"{weight.name}.scales", weight.scales.shape, ir.DataType.FLOAT, lambda: weight.scales)

    def _refer(
        self, name: str, shape: Sequence[int], dtype: ir.DataType, data: Callable[[], torch.Tensor]
    ) -> ir.ExternalTensor:
        length = math.prod(shape) * dtype.itemsize
        if name not in self._places:
            self._places[name] = self._write(data(), int(length))
        return ir.ExternalTensor(
            location=self._path.name,
            offset=self._places[name],
            length=int(length),
            dtype=dtype,
            shape=ir.Shape(shape),
            name=name,
            base_dir=self._path.parent,
        )

    def _write(self, data: torch.Tensor, length: int) -> int:
        alignment = _PAGE if length >= _LARGE else _PACKED
        offset = -(-self._file.tell() // alignment) * alignment
        self._file.seek(offset)
        written = self._file.write(data.contiguous().numpy().data)
        assert written == length, "a view of a tensor must have as many bytes as the tensor"
        return offset


def packed(weight: QuantizedWeight) -> torch.Tensor:
    """Codes as the runtime reads them: unsigned, offset by half the range, 4-bit ones in pairs, the first one low."""
    unsigned = (weight.codes.to(torch.int16) - weight.scheme.lowest).to(torch.uint8)
    if weight.scheme.bits == 8:
        return unsigned
    return unsigned[:, 0::2] | (unsigned[:, 1::2] << 4)
