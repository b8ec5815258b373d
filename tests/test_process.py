"""What holds in every process of edgeqkv, before anything else is imported."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import edgeqkv
from edgeqkv.process import TELEMETRY, environment, python


def test_running_a_bundle_writes_nothing_to_the_users_folders(tmp_path: Path) -> None:
    """ONNX Runtime's telemetry, which would be at work by the time that it is imported."""
    home = {
        name: str(tmp_path) for name in ("HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME", "LOCALAPPDATA")
    }
    kept = {name: value for name, value in os.environ.items() if name not in TELEMETRY}
    script = "import edgeqkv.backends.onnx.runner, os; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    done = subprocess.run(
        [sys.executable, "-P", "-c", script], env=kept | home, capture_output=True, text=True, check=True
    )
    assert done.stdout == "1\n"
    assert list(tmp_path.iterdir()) == []


def test_what_is_started_tells_nobody_either() -> None:
    assert TELEMETRY.items() <= environment().items()
    assert TELEMETRY.items() <= os.environ.items()
    assert python("json.tool", "-h") == [sys.executable, "-P", "-m", "json.tool", "-h"]


def test_started_processes_do_not_see_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Entries of PYTHONPATH that are the current folder: empty ones, relative ones and its name."""
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path)
    own = str(Path(edgeqkv.__file__).parents[1])
    entries = ["", own, ".", "other", str(tmp_path), "other/..", ""]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(entries))
    assert environment()["PYTHONPATH"].split(os.pathsep) == [own, str(tmp_path / "other")]
    monkeypatch.setenv("PYTHONPATH", "")
    assert "PYTHONPATH" not in environment()
    monkeypatch.chdir(own)  # edgeqkv is run from its sources
    monkeypatch.setenv("PYTHONPATH", ".")
    assert environment(MORE="1")["PYTHONPATH"] == own
    assert environment(MORE="1")["MORE"] == environment()["PYTHONSAFEPATH"] == "1"
