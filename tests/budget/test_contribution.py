"""From device reports to an entry of the catalogue: what is better known is kept, and the entry can be read."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from device_reports import REPORT, write_report

from edgeqkv.backends.footprint import ALL, Footprint, Term
from edgeqkv.budget.contribution import Contribution, contribution
from edgeqkv.budget.device_comparison import compare_device
from edgeqkv.budget.device_report import DeviceReport, read_device_report
from edgeqkv.budget.devices import Device, load_catalogue
from edgeqkv.budget.measured_page import page
from edgeqkv.errors import InputError

IPHONE: dict[str, Any] = {
    "device": {"name": "iPhone15,4", "processor": "A16", "ram_bytes": 5_900_000_000},
    "system": {"name": "iOS", "version": "18.5"},
    "memory": {**REPORT["memory"], "figure": "phys_footprint", "limit_bytes": 3_300_000_000},
}
GB = 10**9


def report(folder: Path, **changes: Any) -> DeviceReport:
    return read_device_report(write_report(folder, **changes))


def entry(found: Contribution, folder: Path) -> Device:
    """The entry as ``--devices`` reads it."""
    path = folder / "entry.yaml"
    path.write_text(found.entry)
    return load_catalogue(path).devices[found.name]


def test_a_limit_that_the_system_told_replaces_what_others_reported(tmp_path: Path) -> None:
    reports = [report(tmp_path / "a", **IPHONE), report(tmp_path / "b", **IPHONE)]
    found = contribution(reports, load_catalogue(), name="iphone-15", source="https://example.org/1")
    new = entry(found, tmp_path)
    assert new.process_limit_default_gb.value == 3.3
    assert new.process_limit_default_gb.status == "community-measured"
    assert new.process_limit_default_gb.sources == ("https://example.org/1",)
    assert "told by the system, iOS 18.5, 2 runs" in new.process_limit_default_gb.note
    assert new.process_limit_max_gb == load_catalogue().devices["iphone-15"].process_limit_max_gb
    assert len(new.measurements) == 2
    assert "| `process_limit_default_gb` | 3.12 (community-measured) | 3.3 |" in found.text


def test_a_raised_limit_is_the_other_field(tmp_path: Path) -> None:
    found = contribution([report(tmp_path, **IPHONE)], load_catalogue(), name="iphone-15", raised=True)
    new = entry(found, tmp_path)
    assert (new.process_limit_default_gb.value, new.process_limit_max_gb.value) == (3.12, 3.3)


def test_what_the_vendor_documents_stays(tmp_path: Path) -> None:
    small = report(tmp_path, device={"name": "Pixel 9", "processor": None, "ram_bytes": 7_000_000_000})
    new = entry(contribution([small], load_catalogue()), tmp_path)
    assert new.ram_gb == load_catalogue().devices["pixel-9"].ram_gb


def test_a_run_that_was_not_killed_is_a_lower_bound_where_it_says_more(tmp_path: Path) -> None:
    little = contribution([report(tmp_path / "a")], load_catalogue())
    assert entry(little, tmp_path).process_limit_default_gb.value == 8.0  # 92 MB say nothing against an assumed 8 GB
    assert "the catalogue already knows as much" in little.text
    memory = copy.deepcopy(REPORT["memory"]) | {"phases": {"load": 9 * GB}}
    much = entry(contribution([report(tmp_path / "b", memory=memory)], load_catalogue()), tmp_path)
    assert much.process_limit_default_gb.value == 9.0
    assert "a lower bound" in much.process_limit_default_gb.note


def test_an_unknown_device_becomes_an_entry(tmp_path: Path) -> None:
    device = {"name": "Fairphone 6", "processor": "Snapdragon 7s Gen 3", "ram_bytes": 7_800_000_000}
    found = contribution([report(tmp_path, device=device)], load_catalogue())
    new = entry(found, tmp_path)
    assert (found.name, new.title, new.kind, new.system) == ("fairphone-6", "Fairphone 6", "phone", "android")
    assert (new.ram_gb.value, new.ram_gb.status) == (8, "community-measured")
    assert new.process_limit_default_gb.value == pytest.approx(0.09)
    assert new.mem_bandwidth_gbs.value is None
    assert "A new entry, `fairphone-6`" in found.text


def test_the_prediction_stands_beside_it(tmp_path: Path) -> None:
    measured = report(tmp_path)
    predicted = Footprint((Term("weights", 40_000_000, "mapped", ALL, "", ""),))
    beside = compare_device(predicted, 512, measured, None)
    found = contribution([measured], load_catalogue(), compared=[beside])
    run = entry(found, tmp_path).measurements[0]
    assert (run.memory_mb, run.predicted_mb, run.decode_tokens_per_second, run.tokens) == (32.0, 40.0, 40.0, 512)
    assert "| peak | 40.0 MB | 32.0 MB | +25.0% |" in found.text


def test_names_are_no_markup(tmp_path: Path) -> None:
    device = {"name": "<b>Evil</b> | phone\n# x", "processor": "`rm`", "ram_bytes": None}
    found = contribution([report(tmp_path, device=device)], load_catalogue(), name="evil")
    assert entry(found, tmp_path).title == "b Evil /b phone x"
    assert "<b>" not in found.text


@pytest.mark.parametrize(
    ("changes", "name", "message"),
    [
        ({"device": {"name": "Pixel 8"}}, None, "of several devices"),
        ({"manifest_sha256": "1" * 64}, None, "of several bundles"),
        ({"target": "executorch"}, None, "of several targets"),
        ({}, "hexagon-v75", "is an NPU"),
        ({}, "!!", "is no name"),
    ],
    ids=["devices", "bundles", "targets", "npu", "name"],
)
def test_reports_of_several_things_are_refused(
    changes: dict[str, Any], name: str | None, message: str, tmp_path: Path
) -> None:
    reports = [report(tmp_path / "a"), report(tmp_path / "b", **changes)]
    with pytest.raises(InputError, match=message):
        contribution(reports, load_catalogue(), name=name)


def test_browsers_and_other_systems_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="a browser's figures"):
        contribution([report(tmp_path, browser={"name": "Chromium", "version": "140"})], load_catalogue())
    device = {"name": "Toaster"}
    with pytest.raises(InputError, match="the report is of ToastOS"):
        contribution([report(tmp_path, device=device, system={"name": "ToastOS", "version": "1"})], load_catalogue())


def test_the_page_of_measured_devices_is_up_to_date() -> None:
    written = Path(__file__).parents[2] / "docs" / "measured.md"
    assert written.read_text(encoding="utf-8") == page(load_catalogue())


def test_a_measured_device_has_its_row(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(contribution([report(tmp_path)], load_catalogue()).entry)
    told = page(load_catalogue(path))
    assert f"1 of {len(load_catalogue().devices)} are measured." in told
    assert "| 2026-11-22 | onnx, onnxruntime 1.31.0 | 512 | 32 |  | 40 |" in told
    assert told.count("yours?") == len(load_catalogue().devices) - 1
