"""The cases that the apps' own code is held against are what edgeqkv computes today."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

DEVICE_TESTS = Path(__file__).parent.parent / "device_tests"


def test_the_golden_cases_are_current() -> None:
    """If this fails, run what the script's docstring says."""
    done = subprocess.run([sys.executable, DEVICE_TESTS / "golden.py"], capture_output=True, text=True, check=True)
    assert (DEVICE_TESTS / "golden.json").read_text(encoding="utf-8") == done.stdout
