"""Huge pages for packed weights, where Linux has them.

Every token reads all weights, and with pages of 4 KiB a processor spends much of that on looking up where they lie.
An app asks its C library for huge pages as it starts (``GLIBC_TUNABLES=glibc.malloc.hugetlb=1``); a process that runs
already can only have memory moved that it holds, which is what this does (``MADV_COLLAPSE``, Linux 6.1). What is moved
is all there before, so that it takes no more memory afterwards.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

__all__ = ["anonymous_mappings", "gather", "huge_page_bytes"]

_SETTINGS: Final = Path("/sys/kernel/mm/transparent_hugepage")
_MAPS: Final = Path("/proc/self/maps")
_MADV_HUGEPAGE: Final = 14
_MADV_COLLAPSE: Final = 25


def huge_page_bytes() -> int | None:
    """The size of a huge page; None where there are none, or the system's owner does not want them."""
    if sys.platform != "linux":
        return None
    try:
        if "[never]" in (_SETTINGS / "enabled").read_text(encoding="ascii"):
            return None
        return int((_SETTINGS / "hpage_pmd_size").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


def anonymous_mappings() -> list[range]:
    """The addresses of this process that can be written and are no file's; none where the system does not tell."""
    try:
        return list(_writable(_MAPS.read_text(errors="replace").splitlines()))
    except OSError:
        return []


def gather(before: list[range]) -> int:
    """Move what was allocated since ``before`` was taken to huge pages, as far as it fills them; the bytes moved."""
    size = huge_page_bytes()
    if size is None:
        return 0
    libc, old = ctypes.CDLL(None), set(before)
    new = [mapping for mapping in anonymous_mappings() if mapping not in old]
    return sum(len(part) for mapping in new for part in _filled(libc, mapping, size) if _collapse(libc, part))


def _writable(lines: list[str]) -> Iterator[range]:
    for line in lines:
        addresses, permissions, _, _, inode, *_ = line.split(maxsplit=5)
        if inode == "0" and permissions.startswith("rw"):
            start, _, stop = addresses.partition("-")
            yield range(int(start, 16), int(stop, 16))


def _filled(libc: ctypes.CDLL, mapping: range, size: int) -> Iterator[range]:
    """The parts of a mapping that fill huge pages, as long as they come: each call takes the system some time.

    What is not there yet would be made for the occasion, and so is left out.
    """
    start: int | None = None
    for page in range(-(-mapping.start // size) * size, mapping.stop + 1, size):
        filled = page + size <= mapping.stop and _is_resident(libc, page, size)
        if filled and start is None:
            start = page
        elif not filled and start is not None:
            yield range(start, page)
            start = None


def _is_resident(libc: ctypes.CDLL, start: int, size: int) -> bool:
    pages = (ctypes.c_ubyte * (size // mmap.PAGESIZE))()
    failed = libc.mincore(ctypes.c_void_p(start), ctypes.c_size_t(size), pages)
    return not failed and all(page & 1 for page in pages)


def _collapse(libc: ctypes.CDLL, part: range) -> bool:
    where, length = ctypes.c_void_p(part.start), ctypes.c_size_t(len(part))
    return not libc.madvise(where, length, _MADV_HUGEPAGE) and not libc.madvise(where, length, _MADV_COLLAPSE)
