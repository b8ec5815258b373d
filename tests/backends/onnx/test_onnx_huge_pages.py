"""Packed weights in huge pages: only what is there is moved, and stays what it was."""

from __future__ import annotations

import ctypes
import mmap
import sys
from pathlib import Path

import pytest

from edgeqkv.backends.onnx import huge_pages
from edgeqkv.backends.onnx.huge_pages import anonymous_mappings, gather, huge_page_bytes

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="madvise is Linux's")


@pytest.fixture
def size() -> int:
    found = huge_page_bytes()
    if found is None:
        pytest.skip("the system has no huge pages")
    return found


def resident(memory: mmap.mmap) -> int:
    """Pages of a mapping that are there."""
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    pages = (ctypes.c_ubyte * (len(memory) // mmap.PAGESIZE))()
    assert not ctypes.CDLL(None).mincore(ctypes.c_void_p(address), ctypes.c_size_t(len(memory)), pages)
    return sum(page & 1 for page in pages)


def test_what_is_filled_is_moved_and_keeps_its_bytes(size: int) -> None:
    before = anonymous_mappings()
    memory = mmap.mmap(-1, 4 * size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    pattern = bytes(range(256)) * (size // 256)
    for start in range(0, len(memory), size):
        memory[start : start + size] = pattern
    moved = gather(before)
    if not moved:
        pytest.skip("the system does not collapse pages (before Linux 6.1), or has none left")
    assert moved % size == 0
    assert moved >= 3 * size  # wherever it begins, three whole ones are in it
    assert all(memory[start : start + size] == pattern for start in range(0, len(memory), size))


def test_what_is_not_there_is_not_made(size: int) -> None:
    before = anonymous_mappings()
    memory = mmap.mmap(-1, 8 * size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory[0] = 1
    gather(before)
    # The system may itself give a whole huge page to the first byte, where that is how it is set.
    assert resident(memory) <= size // mmap.PAGESIZE


def test_what_was_there_before_is_left_alone(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[range] = []
    monkeypatch.setattr(huge_pages, "_collapse", lambda _, part: asked.append(part) or False)
    memory = mmap.mmap(-1, 4 * size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory[:] = bytes(len(memory))
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    gather(anonymous_mappings())
    assert not any(part.start <= address < part.stop for part in asked)
    gather([])
    assert any(part.start < address + len(memory) and address < part.stop for part in asked)


@pytest.mark.parametrize("said", ["always madvise [never]", None])
def test_nothing_is_done_where_the_system_has_none(
    said: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if said is not None:
        (tmp_path / "enabled").write_text(said)
    monkeypatch.setattr(huge_pages, "_SETTINGS", tmp_path)
    assert huge_page_bytes() is None
    assert gather([]) == 0


def test_elsewhere_there_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huge_pages.sys, "platform", "darwin")
    assert huge_page_bytes() is None
