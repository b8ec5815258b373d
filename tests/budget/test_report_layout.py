"""The report as a browser lays it out: nothing lies on anything else, at a desk or on a phone; it prints briefly."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import boxes
import pytest
from model_sizes import M300

from edgeqkv.budget.evaluate import evaluate_shape
from edgeqkv.budget.html import render
from edgeqkv.budget.plan import ModelShape
from edgeqkv.budget.presets import Choices
from edgeqkv.budget.provenance import Provenance
from edgeqkv.model.variants import Variant

LARGE = dataclasses.replace(
    M300, layers=24, hidden_size=2048, heads=32, kv_heads=32, intermediate_size=8192, positions=4096
)
DEVICES = ("iphone-15", "pixel-9-pro", "pixel-8", "raspberry-pi-5-8gb")
MADE = Provenance(
    "2026-11-27", "0.1.0", "edgeqkv budget model.pt --device iphone-15", "model.pt", "0123456789abcdef" * 4
)


def four_devices() -> str:
    report = evaluate_shape(ModelShape.of(M300, Variant.parse("q-k=v+gqa4")), "model.pt", DEVICES)
    return render(dataclasses.replace(report, made=MADE))


def too_large() -> str:
    asked = Choices(target="onnx", form="static", weights="int8", state="fp32", context=4096, chunk=256)
    devices = ("android-mid-6gb", "iphone-15", "hexagon-v75")
    report = evaluate_shape(ModelShape.of(LARGE, Variant.parse("qkv")), "model.pt", devices, asked=asked)
    assert not report.passed
    return render(dataclasses.replace(report, made=MADE))


@pytest.fixture(scope="module")
def program() -> str:
    found = boxes.browser()
    if found is None:
        pytest.skip("there is no Chromium or Chrome to lay a page out")
    return found


PAGES = {
    "four devices, desk": (four_devices, 1280),
    "four devices, phone": (four_devices, 390),
    "too large, desk": (too_large, 1280),
    "too large, phone": (too_large, 390),
}
COVERED = '<p style="margin:0">one</p><p style="margin:-12px 0 0">two</p><p style="margin:0; width:900px">wide</p>'


@pytest.fixture(scope="module")
def found(program: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, boxes.Layout]:
    """All pages in one run of the browser."""
    pages = [*((page(), width) for page, width in PAGES.values()), (f'<body style="margin:0">{COVERED}', 390)]
    measured = boxes.layouts(pages, tmp_path_factory.mktemp("layouts"), program)
    return dict(zip([*PAGES, "covered"], measured, strict=True))


@pytest.mark.parametrize("name", PAGES)
def test_nothing_lies_on_anything_else(name: str, found: dict[str, boxes.Layout]) -> None:
    layout, width = found[name], PAGES[name][1]
    assert len(layout.boxes) > 150
    assert layout.overlaps == []
    assert layout.width <= width
    assert max(box.right for box in layout.boxes) <= width
    assert min(box.left for box in layout.boxes) >= 0


def test_the_first_screen_answers_for_four_devices(found: dict[str, boxes.Layout]) -> None:
    sentences = found["four devices, desk"].sentences
    assert len(sentences) == len(DEVICES)
    assert max(sentences) <= 800


def test_four_devices_take_four_sheets(program: str, tmp_path: Path) -> None:
    assert 1 < boxes.pages_on_paper(four_devices(), tmp_path, program) <= 4


def test_what_overlaps_or_sticks_out_is_found(found: dict[str, boxes.Layout]) -> None:
    assert found["covered"].overlaps == [("one", "two")]
    assert found["covered"].width == 900
