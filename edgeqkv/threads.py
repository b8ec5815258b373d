"""How many threads the runtimes use that edgeqkv opens: what ``EDGEQKV_THREADS`` says, or as many as they like."""

from __future__ import annotations

import os
from typing import Final

from edgeqkv.errors import InputError

__all__ = ["VARIABLE", "threads_environment", "threads_wanted"]

VARIABLE: Final = "EDGEQKV_THREADS"

_OTHERS: Final = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
"""What libraries read themselves, torch among them."""

_MOST: Final = 1024


def threads_wanted() -> int:
    """The number; 0 where nobody said one.

    Raises:
        InputError: the variable holds no such number.
    """
    given = os.environ.get(VARIABLE, "0")
    if not given.isdecimal() or int(given) > _MOST:
        raise InputError(f"{VARIABLE} is '{given}'; give a number of threads, or 0 for what each runtime likes")
    return int(given)


def threads_environment(count: int | None) -> dict[str, str]:
    """The variables that give a process so many threads; none for None."""
    return {} if not count else dict.fromkeys((VARIABLE, *_OTHERS), str(count))
