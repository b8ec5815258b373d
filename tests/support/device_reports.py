"""A device report as an app writes it, for the tests of what reads it."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

REPORT: dict[str, Any] = {
    "format": 1,
    "date": "2026-11-22T10:30:00+01:00",
    "app": {"name": "edgeqkv-android", "version": "0.1.0"},
    "device": {"name": "Pixel 9 Pro", "processor": "Tensor G4", "ram_bytes": 15_800_000_000},
    "system": {"name": "Android", "version": "16"},
    "runtime": {"name": "onnxruntime", "version": "1.31.0", "settings": "4 threads"},
    "manifest_sha256": "0" * 64,
    "target": "onnx",
    "load_seconds": 0.25,
    "prefill": {"tokens": 480, "seconds": 0.4},
    "decode": {"tokens": 32, "seconds": 0.8},
    "state_bytes": 524_288,
    "memory": {
        "figure": "Debug.MemoryInfo.totalPss",
        "before_bytes": 60_000_000,
        "phases": {"load": 84_000_000, "prefill": 92_000_000, "decode": 91_000_000},
        "limit_bytes": None,
    },
    "thermal": {"before": "THERMAL_STATUS_NONE", "after": "THERMAL_STATUS_LIGHT"},
}


def write_report(folder: Path, **changes: Any) -> Path:
    """The report with top-level fields replaced (removed, where the value is ``...``), in a file."""
    content = copy.deepcopy(REPORT) | changes
    folder.mkdir(exist_ok=True)
    path = folder / "device-report.json"
    path.write_text(json.dumps({name: value for name, value in content.items() if value is not ...}))
    return path
