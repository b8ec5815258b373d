"""The device report's schema: what is read, what is refused, and the copy for apps in other languages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from device_reports import REPORT, write_report

import edgeqkv
from edgeqkv.budget.device_report import check_bundle, identity, json_schema, read_device_report
from edgeqkv.bundle.bundle import Bundle
from edgeqkv.errors import InputError

ROOT = Path(__file__).parents[2]


def test_a_report_is_read(tmp_path: Path) -> None:
    report = read_device_report(write_report(tmp_path))
    assert report.decode.tokens_per_second == 40
    assert report.memory is not None
    assert report.memory.peak_bytes == 92_000_000
    assert report.filled == 512


def test_what_an_app_cannot_know_may_be_left_out(tmp_path: Path) -> None:
    report = read_device_report(
        write_report(tmp_path, device={"name": "a browser"}, memory=None, thermal=..., state_bytes=...)
    )
    assert (report.memory, report.thermal, report.state_bytes) == (None, None, None)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 2}, "of format 2, and this edgeqkv reads device reports of format 1"),
        ({"format": ...}, "of format None"),
        ({"target": ...}, "target: Field required"),
        ({"load_seconds": 0}, "load_seconds: Input should be greater than 0"),
        ({"load_seconds": float("nan")}, "load_seconds: "),
        ({"prefill": {"tokens": "480", "seconds": 0.4}}, "prefill.tokens: Input should be a valid integer"),
        ({"decode": {"tokens": 0, "seconds": 0.4}}, "decode.tokens: Input should be greater than or equal to 1"),
        ({"manifest_sha256": "0" * 63}, "manifest_sha256: String should match pattern"),
        ({"date": "2026-11-22T10:30:00"}, "date: Input should have timezone info"),
        ({"battery": 80}, "battery: Extra inputs are not permitted"),
        ({"memory": {**REPORT["memory"], "figure": "RSS"}}, "memory.figure: Input should be 'Debug.MemoryInfo"),
        ({"memory": {**REPORT["memory"], "phases": {}}}, "memory.phases: Dictionary should have at least 1 item"),
        ({"memory": {**REPORT["memory"], "phases": {"idle": 1}}}, "memory.phases.idle"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=r"device-report\.json is ") as raised:
        read_device_report(write_report(tmp_path, **changes))
    assert message in str(raised.value)


def test_a_file_that_is_no_report(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot read"):
        read_device_report(tmp_path / "nothing.json")
    path = tmp_path / "text.json"
    for content in (b"{", b"\xff", b"[]"):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"text\.json is "):
            read_device_report(path)


def test_it_must_be_of_this_bundle(tmp_path: Path, tiny_model: Any) -> None:
    bundle = edgeqkv.export(tiny_model, "onnx", out=tmp_path / "bundle", weights="fp32", verify=False)
    check_bundle(read_device_report(write_report(tmp_path, manifest_sha256=identity(bundle))), bundle)
    with pytest.raises(InputError, match=r"of another bundle: its manifest\.json has the SHA-256 000000000000"):
        check_bundle(read_device_report(write_report(tmp_path)), bundle)
    other = write_report(tmp_path, manifest_sha256=identity(bundle), target="coreml")
    with pytest.raises(InputError, match=r"is of the target 'coreml', and .* holds onnx"):
        check_bundle(read_device_report(other), Bundle(bundle.path))


def test_the_schema_for_the_apps_is_this_one() -> None:
    """If this fails, run what the module's docstring says."""
    assert (ROOT / "device_tests" / "device-report.schema.json").read_text(encoding="utf-8") == json_schema()
