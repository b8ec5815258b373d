"""Which memory is a file's mapping, and giving it back.

A checkpoint is mapped, not read, but every page that was looked at stays in the process's memory until it is given
back. On Linux giving back is final: a page of a file's mapping is read anew from the file, any other page is zeros from
then on. So whether memory may be given back is no property of a tensor, which may be a copy of what was mapped or
claim any shape over a few bytes: it is a fact of addresses, kept here by whoever maps a file.

Some files say too which checksum their bytes have. To compare it they have to be read, so that is done where they are
read anyway, once a storage.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final
from weakref import WeakKeyDictionary

import torch

__all__ = ["expect", "fault", "give_back", "is_intact", "register_mapped"]

_BYTES_AT_ONCE: Final = 1 << 24

# The address ranges of storages that are mappings of files. Torch keeps the key, a storage's
# Python object, as long as any tensor has its memory; with the last of them the entry is gone.
_MAPPED: Final[WeakKeyDictionary[torch.UntypedStorage, range]] = WeakKeyDictionary()

# The CRC-32 that a storage may have, until it was found to have one of them.
_EXPECTED: Final[WeakKeyDictionary[torch.UntypedStorage, frozenset[int]]] = WeakKeyDictionary()


def register_mapped(*tensors: torch.Tensor) -> None:
    """Say of tensors' storages that they are mappings of a file, so that their pages can be given back.

    Only for memory that is the file's, byte for byte: which nothing writes to, or which is shared with the file, so
    that what is written comes to stand in it. Where the system tells, what is no mapping after all (a copy that the
    file's reader made) is left out.
    """
    files = _file_mappings()
    for tensor in tensors:
        if not _has_memory(tensor):
            continue
        storage = tensor.untyped_storage()
        addresses = range(storage.data_ptr(), storage.data_ptr() + storage.nbytes())
        if addresses and (files is None or any(_is_within(addresses, file) for file in files)):
            _MAPPED[storage] = addresses


def give_back(tensor: torch.Tensor) -> None:
    """Give back the memory of a mapped tensor's pages; the system reads them again from the file on use.

    Whole pages only, so that a neighbour keeps its own. Memory that is no registered mapping is left alone.
    """
    if sys.platform == "win32" or not _has_memory(tensor):
        return
    storage = tensor.untyped_storage()
    mapped = _MAPPED.get(storage)
    if mapped is None or mapped.start != storage.data_ptr():
        return
    extent = _extent(tensor)
    _give_back(max(extent.start, mapped.start), min(extent.stop, mapped.stop))


def _give_back(start: int, stop: int) -> None:
    first, last = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE, stop // mmap.PAGESIZE * mmap.PAGESIZE
    if last > first:
        ctypes.CDLL(None).madvise(ctypes.c_void_p(first), ctypes.c_size_t(last - first), mmap.MADV_DONTNEED)


def expect(checksums: Mapping[int, frozenset[int]], *tensors: torch.Tensor) -> int | None:
    """Say which CRC-32 a storage of so many bytes may have, for `is_intact` to compare; any, if none is said.

    Returns:
        the bytes of a storage that is of none of these lengths, if there is one.
    """
    for tensor in tensors:
        if not _has_memory(tensor) or not (size := tensor.untyped_storage().nbytes()):
            continue
        if size not in checksums:
            return size
        _EXPECTED[tensor.untyped_storage()] = checksums[size]
    return None


def is_intact(tensor: torch.Tensor) -> bool:
    """Whether the whole storage of a tensor has a checksum that its file says; true where no file says any.

    The bytes are read the first time, a few at once: of a mapping, what was read is given back.
    """
    expected = _EXPECTED.get(storage := tensor.untyped_storage()) if _has_memory(tensor) else None
    if not expected:
        return True
    start, stop, checksum = storage.data_ptr(), storage.data_ptr() + storage.nbytes(), 0
    for first in range(start, stop, _BYTES_AT_ONCE):
        count = min(_BYTES_AT_ONCE, stop - first)
        checksum = zlib.crc32((ctypes.c_ubyte * count).from_address(first), checksum)
        if storage in _MAPPED and sys.platform != "win32":
            _give_back(first, first + count)
    if checksum not in expected:
        return False
    del _EXPECTED[storage]
    return True


def fault(tensor: torch.Tensor) -> str | None:
    """What keeps a tensor out of a file from being numbers in memory, each in a place of its own; None if it is well.

    A file says itself which shape and strides its tensors have over which bytes, so it can say anything.
    """
    if not _has_memory(tensor):
        kind = tensor.layout if tensor.layout != torch.strided else tensor.device
        what = "nested" if tensor.is_nested else str(kind).removeprefix("torch.")
        return f"is no dense tensor in memory but {what}"
    storage, extent = tensor.untyped_storage(), _extent(tensor)
    if extent and not _is_within(extent, range(storage.data_ptr(), storage.data_ptr() + storage.nbytes())):
        return (
            f"reaches beyond its storage: it is {list(tensor.shape)} with strides {list(tensor.stride())} over "
            f"{storage.nbytes()} bytes"
        )
    places = len(extent) // tensor.element_size()
    if tensor.numel() > places:
        return (
            f"overlaps itself: its {tensor.numel()} numbers ({list(tensor.shape)} with strides "
            f"{list(tensor.stride())}) have {places} places. Save it with .contiguous()"
        )
    return None


def _has_memory(tensor: torch.Tensor) -> bool:
    """Whether its numbers lie in memory by shape and strides; a nested one says that they do, and has no shape."""
    return tensor.layout == torch.strided and tensor.device.type == "cpu" and not tensor.is_nested


def _extent(tensor: torch.Tensor) -> range:
    """The addresses from the first byte of a tensor to its last; strides are never negative."""
    if not tensor.numel():
        return range(0)
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return range(tensor.data_ptr(), tensor.data_ptr() + (last + 1) * tensor.element_size())


def _is_within(inner: range, outer: range) -> bool:
    return outer.start <= inner.start and inner.stop <= outer.stop


def _file_mappings() -> list[range] | None:
    """The addresses of the process that are files'; None where it cannot be told, and giving back is only advice."""
    if sys.platform != "linux":
        return None
    return list(_read_mappings(Path("/proc/self/maps")))


def _read_mappings(maps: Path) -> Iterator[range]:
    try:
        lines = maps.read_text(errors="replace").splitlines()
    except OSError:
        return
    for line in lines:
        addresses, _, _, _, inode, *_ = line.split(maxsplit=5)
        if inode != "0":
            start, _, stop = addresses.partition("-")
            yield range(int(start, 16), int(stop, 16))
