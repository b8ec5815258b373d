"""Calibration texts out of Hugging Face's datasets; a folder of JSON lines is one."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from edgeqkv import InputError
from edgeqkv.pipeline import data_sets
from edgeqkv.pipeline.data_sets import text_file


def written(folder: Path, rows: list[dict[str, object]]) -> Path:
    folder.mkdir()
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return Path(f"dataset:{folder}")


def test_a_file_is_taken_as_it_is(tmp_path: Path) -> None:
    with text_file(tmp_path / "text.txt", 100) as path:
        assert path == tmp_path / "text.txt"


def test_a_data_set_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(InputError, match="needs the package 'datasets'; add it with"), text_file(Path("dataset:a"), 1):
        pass


@pytest.mark.filterwarnings("ignore")  # of the libraries that it needs
def test_as_much_of_a_data_set_as_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("datasets")
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    name = written(tmp_path / "set", [{"text": f"The number {number}, é."} for number in range(1000)])
    with text_file(name, 100) as path:
        whole = path.read_text(encoding="utf-8")
    assert not path.exists()
    assert whole.startswith("The number 0, é.\n\nThe number 1, é.\n\n")
    assert whole.endswith("The number 999, é.\n\n")
    monkeypatch.setattr(data_sets, "_LEAST", 60)
    with text_file(name, 5) as path:
        assert path.read_text(encoding="utf-8") == "".join(f"The number {number}, é.\n\n" for number in range(4))
    other = written(tmp_path / "other", [{"question": "What?", "answer": "This."}])
    with (
        pytest.raises(InputError, match=r"has no column 'text' of texts; it has question, answer"),
        text_file(other, 1),
    ):
        pass
    with pytest.raises(InputError, match=r"cannot read the data set .*nowhere"):
        text_file(Path(f"dataset:{tmp_path}/nowhere"), 1).__enter__()
