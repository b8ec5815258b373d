"""The one file that holds the weights of all graphs of an export."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Self

import onnx_ir as ir

from edgeqkv.weights import Weight

__all__ = ["WeightFile"]

_ONNX_TYPES = {"fp32": ir.DataType.FLOAT, "fp16": ir.DataType.FLOAT16}

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
        self._written: dict[Weight, ir.ExternalTensor] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def tensor(self, weight: Weight) -> ir.ExternalTensor:
        """A reference to the weight, which is written if it was not yet."""
        if weight not in self._written:
            self._written[weight] = self._write(weight)
        return self._written[weight]

    def _write(self, weight: Weight) -> ir.ExternalTensor:
        alignment = _PAGE if weight.stored_bytes >= _LARGE else _PACKED
        offset = -(-self._file.tell() // alignment) * alignment
        self._file.seek(offset)
        self._file.write(weight.stored().contiguous().numpy().data)
        weight.release_pages()
        return ir.ExternalTensor(
            location=self._path.name,
            offset=offset,
            length=weight.stored_bytes,
            dtype=_ONNX_TYPES[weight.precision],
            shape=ir.Shape(weight.shape),
            name=weight.name,
            base_dir=self._path.parent,
        )
