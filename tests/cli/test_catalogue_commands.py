"""What ``devices NAME`` and ``recipes`` show."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from edgeqkv.cli import app as cli


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    def call(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["edgeqkv", *arguments])
        with pytest.raises(SystemExit) as raised:
            cli.main()
        assert not raised.value.code
        return capsys.readouterr().out

    return call


def test_a_device_is_shown_with_units(shown: Any) -> None:
    lines = shown("devices", "iphone-15").splitlines()
    assert lines[0] == "iPhone 15 (iphone-15)"
    assert any(line.startswith("process limit default: 3.12 GB (") for line in lines)
    assert any(line.startswith("mem bandwidth: 51.2 GB/s (") for line in lines)
    assert not any("gb:" in line or "gbs:" in line for line in lines)


def test_an_npu_is_shown_in_words(shown: Any) -> None:
    told = shown("devices", "hexagon-v75")
    assert "True" not in told
    assert "{" not in told


def test_recipes_say_what_they_choose_in_a_line(shown: Any) -> None:
    head, *rows = shown("recipes").splitlines()
    assert head.split("\t") == ["recipe", "export", "for", "why"]
    (pixel,) = (row for row in rows if row.startswith("pixel-9-pro\t"))
    assert pixel.split("\t")[1] == "onnx portable, int4 weights, fp32 state, chunk 128"
