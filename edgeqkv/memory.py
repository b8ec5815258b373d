"""Memory that is free and still the process's own."""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["garbage_kept", "give_back"]


def give_back() -> None:
    """Give what is no longer used back to the system, where the C library would keep it.

    After freeing a large block glibc keeps all that are smaller: an export that is done with a matrix would hold on to
    several of its size while it writes, computes and waits. Other C libraries have no such call and need none.
    """
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)) is not None:
        trim(0)


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
