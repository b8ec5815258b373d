"""The weight file of a Core ML package (``weight.bin``, MIL blob storage, version 2), memory-mapped.

Layout, little-endian: a header of 64 bytes (number of blobs, version), then for each blob a record of
64 bytes (a sentinel, the dtype, the size in bytes, where its data begin, unused bits at the end) and
its data, both aligned to 64 bytes. A constant of the program names the offset of its blob's record.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeqkv.mil.errors import PackageError, UnsupportedOperation

__all__ = ["DTYPES", "Array", "Blob", "Dtype", "WeightFile", "unpack", "unpack_bits"]

Array = npt.NDArray[Any]

_SENTINEL = 0xDEADBEEF
_VERSION = 2
_RECORD = struct.Struct("<IIQQQ")
_RECORD_BYTES = 64


@dataclass(frozen=True)
class Dtype:
    """An element type of MIL.

    Attributes:
        bits: the size of a stored element; elements of less than 8 are packed without gaps.
        array: what holds the elements in memory.
        code: its number in a blob's record, or None where no blob can hold it.
    """

    name: str
    bits: int
    array_type: npt.DTypeLike
    code: int | None = None

    def array(self, values: Sequence[Any]) -> Array:
        """The values as an array of this type (protobuf stores 16-bit integers in wider ones)."""
        return np.array(values, dtype=self.array_type)


DTYPES = {
    dtype.name: dtype
    for dtype in (
        Dtype("fp16", 16, np.float16, 1),
        Dtype("fp32", 32, np.float32, 2),
        Dtype("fp64", 64, np.float64),
        Dtype("uint8", 8, np.uint8, 3),
        Dtype("int8", 8, np.int8, 4),
        Dtype("int16", 16, np.int16, 6),
        Dtype("uint16", 16, np.uint16, 7),
        Dtype("int4", 4, np.int8, 8),
        Dtype("uint1", 1, np.uint8, 9),
        Dtype("uint2", 2, np.uint8, 10),
        Dtype("uint4", 4, np.uint8, 11),
        Dtype("uint3", 3, np.uint8, 12),
        Dtype("uint6", 6, np.uint8, 13),
        Dtype("int32", 32, np.int32, 14),
        Dtype("uint32", 32, np.uint32, 15),
        Dtype("int64", 64, np.int64),
        Dtype("bool", 8, np.bool_),
    )
}


class WeightFile:
    """A weight file, mapped into memory; pages are read when they are first used.

    Raises:
        PackageError: the file is missing, or is not blob storage of the version that is known.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.is_file():  # which a pipe would be waited for
            raise PackageError(f"the package's weights cannot be read: there is no file {path}")
        try:
            # "c": torch wants writable memory. What would be written never reaches the file.
            self._bytes: Array = np.memmap(path, np.uint8, mode="c")
        except (OSError, ValueError) as error:
            raise PackageError(f"the package's weights cannot be read: {error}") from error
        if self._bytes.size < _RECORD_BYTES or self._word(4) != _VERSION:
            raise PackageError(f"{path} is damaged: it does not begin as a weight file of version {_VERSION}")

    def _word(self, offset: int) -> int:
        return int.from_bytes(self._bytes[offset : offset + 4].tobytes(), "little")

    def blob(self, offset: int, dtype: str, shape: tuple[int, ...]) -> Blob:
        """The blob whose record lies at this offset, which must hold a tensor of this type and shape.

        Raises:
            PackageError: it does not, or the file ends before the blob does.
        """
        where = f"{self.path} is damaged: the blob at byte {offset}"
        if offset + _RECORD_BYTES > self._bytes.size:
            raise PackageError(f"{where} lies past its end ({self._bytes.size} bytes)")
        sentinel, code, size, start, _ = _RECORD.unpack(self._bytes[offset : offset + _RECORD.size].tobytes())
        expected = DTYPES[dtype]
        if sentinel != _SENTINEL or code != expected.code:
            raise PackageError(f"{where} is not one of {dtype}")
        if size != -(-math.prod(shape) * expected.bits // 8):
            raise PackageError(f"{where} has {size} bytes, which are not {dtype}{list(shape)}")
        if start + size > self._bytes.size:
            raise PackageError(f"{where} ends past its end ({self._bytes.size} bytes)")
        return Blob(self.path, offset, expected, shape, self._bytes[start : start + size])


@dataclass(frozen=True, eq=False)
class Blob:
    """A tensor in a weight file."""

    path: Path
    offset: int
    dtype: Dtype
    shape: tuple[int, ...]
    data: Array

    def read(self) -> Array:
        """The tensor: a view of the mapped file, or unpacked if its elements are smaller than a byte."""
        return unpack(self.data, self.dtype, self.shape)


def unpack(data: bytes | Array, dtype: Dtype, shape: tuple[int, ...]) -> Array:
    """Stored bytes as a tensor; without a copy unless elements are packed or the bytes are read-only."""
    stored = np.frombuffer(data, np.uint8).copy() if isinstance(data, bytes) else data
    if dtype.bits >= 8:
        return stored.view(dtype.array_type).reshape(shape)
    codes = unpack_bits(stored, dtype.bits, math.prod(shape)).reshape(shape)
    if not dtype.name.startswith("int"):
        return codes
    shift = 8 - dtype.bits
    return (codes << shift).view(np.int8) >> shift


def unpack_bits(packed: Array, bits: int, count: int) -> Array:
    """The first ``count`` unsigned elements of ``bits`` bits each, packed from the lowest bit upwards.

    Raises:
        UnsupportedOperation: elements do not have 1, 2, 3, 4 or 6 bits.
    """
    if bits in (1, 2, 4):
        shifts = np.arange(0, 8, bits, dtype=np.uint8)
        elements = (np.arange(256, dtype=np.uint8)[:, None] >> shifts) & np.uint8(2**bits - 1)
        # All elements of a byte in one number, so that a byte is looked up once: ten times as fast as shifting it.
        of_byte = elements.view(f"u{len(shifts)}").reshape(-1)
        return of_byte[packed].view(np.uint8)[:count]
    if bits not in (3, 6):
        raise UnsupportedOperation(f"elements of {bits} bits cannot be unpacked")
    single = np.unpackbits(packed, count=count * bits, bitorder="little").reshape(count, bits)
    return np.packbits(single, axis=1, bitorder="little").reshape(count)
