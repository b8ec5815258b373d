"""How fast this machine's memory is read, which bounds how fast a model decodes: every token reads the weights anew."""

from __future__ import annotations

import os
import sys
import threading
import time
from typing import Final

import numpy as np

__all__ = ["read_bandwidth"]

_BYTES: Final = 256 << 20  # far beyond every cache
_SECONDS: Final = 0.4


def read_bandwidth(threads: int = 0) -> float:
    """Bytes a second that so many threads read, each a part of a large array of its own: the best of a few times.

    The largest of 64-bit integers is looked for, which takes less time than their coming. A runtime that reads several
    places at once, or bytes that its kernels prefetch better, can come close to it and hardly beyond.

    Args:
        threads: 0: as many as this process may use cores.
    """
    threads = threads or _cores()
    whole = np.ones(_BYTES // 8, np.int64)
    parts = np.array_split(whole, threads)
    best, until = 0.0, time.perf_counter() + _SECONDS
    while best == 0.0 or time.perf_counter() < until:
        started = time.perf_counter()
        workers = [threading.Thread(target=part.max) for part in parts]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        best = max(best, whole.nbytes / (time.perf_counter() - started))
    return best


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
