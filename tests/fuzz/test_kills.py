"""A few of the exports that `kills` disturbs, always the same."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

KILLS = Path(__file__).with_name("kills.py")


@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
def test_disturbed_exports_leave_a_whole_bundle_and_nothing_else() -> None:
    command = [sys.executable, KILLS, "--cases", "5", "--seed", "3", "--targets", "onnx"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "5 cases, seed 3: 0 failed" in done.stdout
