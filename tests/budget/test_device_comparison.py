"""What of a device's report is comparable with a prediction, and what is not."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from device_reports import REPORT, write_report

from edgeqkv.backends.footprint import ALL, RUNNING, Footprint, Term
from edgeqkv.budget.device_comparison import OnDevice, compare_device
from edgeqkv.budget.device_report import read_device_report

MB = 10**6


def term(name: str, megabytes: int, memory: Any, phases: Any = ALL) -> Term:
    return Term(name, megabytes * MB, memory, phases, "", "")


FOOTPRINT = Footprint(
    (
        term("weights", 10, "mapped"),
        term("weights", 5, "mapped again"),
        term("runtime", 20, "anonymous"),
        term("state", 4, "anonymous", RUNNING),
        term("activations", 2, "anonymous", ("prefill",)),
    )
)


def compared(folder: Path, context: int = 512, **changes: Any) -> OnDevice:
    memory = changes.pop("memory", None)
    if memory is not None:
        changes["memory"] = copy.deepcopy(REPORT["memory"]) | memory
    return compare_device(FOOTPRINT, context, read_device_report(write_report(folder, **changes)), None)


def rows(told: OnDevice) -> dict[str, tuple[int, int]]:
    return {row.name: (row.predicted // MB, row.measured // MB) for row in told.rows}


def test_android_counts_what_is_mapped(tmp_path: Path) -> None:
    """Above the 60 MB that the app held before; pages that are mapped twice are there once."""
    told = compared(tmp_path, state_bytes=4 * MB)
    assert rows(told) == {"load": (30, 24), "prefill": (36, 32), "decode": (34, 31), "peak": (36, 32), "state": (4, 4)}
    assert told.rows[0].error == pytest.approx(0.25)
    assert {"terms apart", "load time, prefill speed", "decode speed", "app limit"} == told.open.keys()


def test_ios_does_not(tmp_path: Path) -> None:
    told = compared(tmp_path, memory={"figure": "phys_footprint"}, state_bytes=None)
    assert rows(told) == {"load": (20, 24), "prefill": (26, 32), "decode": (24, 31), "peak": (26, 32)}
    assert "10,000,000 bytes are predicted" in told.open["mapped files"]
    assert "the runtime holds it" in told.open["state"]


def test_a_browsers_figure_is_not_the_predictions(tmp_path: Path) -> None:
    told = compared(
        tmp_path,
        memory={"figure": "measureUserAgentSpecificMemory"},
        state_bytes=4 * MB,
        browser={"name": "Chromium", "version": "140"},
    )
    assert rows(told) == {"state": (4, 4)}
    assert "counts a page in a browser" in told.open["memory"]
    assert "(Chromium 140, Android 16)" in told.title


def test_phases_that_were_not_sampled_or_took_nothing_are_named(tmp_path: Path) -> None:
    told = compared(tmp_path, memory={"phases": {"load": 50 * MB, "decode": 70 * MB}})
    assert "was not above" in told.open["memory, load"]
    assert "no sample" in told.open["memory, prefill"]
    assert rows(told)["decode"] == (34, 10)
    assert compared(tmp_path, memory={}, context=1024).open["full context"].startswith("the run filled 512")


def test_without_memory_the_speeds_remain(tmp_path: Path) -> None:
    report = read_device_report(write_report(tmp_path, memory=None, state_bytes=None, thermal=None))
    told = compare_device(FOOTPRINT, 512, report, None)
    assert told.rows == ()
    assert told.open["memory"] == "the report has none"
    assert ("prefill", "480 tokens, 1200.0 tokens/s") in told.facts()
    assert told.to_json()["decode_tokens_per_second"] == 40
