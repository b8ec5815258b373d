"""Memory that is free and still the process's own."""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["garbage_kept", "give_back", "keep_freed"]

_LARGEST_KEPT, _MOST_KEPT = 32 << 20, 128 << 20
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h


def give_back() -> None:
    """Give what is no longer used back to the system, where the C library would keep it.

    After freeing a large block glibc keeps all that are smaller: an export that is done with a matrix would hold on to
    several of its size while it writes, computes and waits. Other C libraries have no such call and need none.
    """
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)) is not None:
        trim(0)


def keep_freed() -> None:
    """Let this process keep up to 128 MiB of what it frees, in blocks of up to 32 MiB, where glibc would give it back.

    For what computes with large intermediate results: the system clears what it hands out again, page by page, which
    took the evaluator of Core ML's packages half of its time in a process whose threshold for that is fixed.
    """
    if sys.platform == "linux" and (tune := getattr(ctypes.CDLL(None), "mallopt", None)) is not None:
        tune(_MMAP_THRESHOLD, _LARGEST_KEPT)
        tune(_TRIM_THRESHOLD, _MOST_KEPT)


@contextmanager
def garbage_kept() -> Iterator[None]:
    """Inside, Python looks for unreachable cycles a hundred times less often.

    For what makes hundreds of thousands of objects that stay, such as a graph: each look goes through many of them, and
    finds little. What is not in a cycle is freed as ever.
    """
    before = gc.get_threshold()
    gc.set_threshold(100 * before[0], *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)
