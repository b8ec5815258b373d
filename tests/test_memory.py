from __future__ import annotations

import gc
import os
import subprocess
import sys

import pytest

from edgeqkv.memory import garbage_kept, give_back, keep_freed

SCATTERED = """
from pathlib import Path
import numpy as np
from edgeqkv.memory import give_back

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

# Blocks below glibc's threshold, every other one freed: holes that it keeps.
blocks = [np.ones(100_000, np.uint8) for _ in range(1000)]
full = resident()
del blocks[::2]
kept = resident()
give_back()
print(full - kept, full - resident())
"""


REUSED = """
import resource
import numpy as np
from edgeqkv.memory import keep_freed

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        np.ones(500_000)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

given_back = faults()
keep_freed()
np.ones(500_000)
print(given_back, faults())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's malloc")
def test_large_blocks_are_taken_from_what_was_freed() -> None:
    surroundings = os.environ | {"MALLOC_MMAP_THRESHOLD_": str(1 << 20)}
    done = subprocess.run([sys.executable, "-c", REUSED], capture_output=True, text=True, check=True, env=surroundings)
    before, after = map(int, done.stdout.split())
    assert before > 10_000  # 4 MB in pages of 4 KiB, 20 times
    assert after < before / 10


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_holes_go_back_to_the_system() -> None:
    done = subprocess.run([sys.executable, "-c", SCATTERED], capture_output=True, text=True, check=True)
    before, after = map(int, done.stdout.split())
    assert before < 5e6
    assert after > 40e6


def test_where_there_is_no_such_call_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeqkv.memory.ctypes.CDLL", lambda _: object())
    give_back()
    keep_freed()


def test_garbage_is_kept_for_longer_and_then_as_ever() -> None:
    before = gc.get_threshold()
    with garbage_kept():
        assert gc.get_threshold()[0] == 100 * before[0]
    assert gc.get_threshold() == before
