"""Memory that is free and still the process's own."""

from __future__ import annotations

import ctypes
import sys

__all__ = ["give_back"]


def give_back() -> None:
    """Give what is no longer used back to the system, where the C library would keep it.

    After freeing a large block glibc keeps all that are smaller: an export that is done with a matrix would hold on to
    several of its size while it writes, computes and waits. Other C libraries have no such call and need none.
    """
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)) is not None:
        trim(0)
