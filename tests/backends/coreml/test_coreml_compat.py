"""What happens when something that coremltools never promised is gone."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from edgeqkv.backends.coreml import _compat
from edgeqkv.errors import MissingExtra


def stand_in(source: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have this imported as coremltools until the test is over."""
    (folder / "coremltools.py").write_text(source)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setitem(sys.modules, "coremltools", ModuleType("coremltools"))
    del sys.modules["coremltools"]


@pytest.mark.parametrize("needed", ["sklearn", "torchao"])
def test_a_framework_that_it_cannot_do_without_is_given_back(
    needed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(f"import {needed}\nfound = {needed}\n", tmp_path, monkeypatch)
    monkeypatch.setitem(sys.modules, needed, framework := ModuleType(needed))
    assert _compat.import_coremltools("The test").found is framework
    assert sys.modules[needed] is framework


def test_a_module_that_coremltools_itself_lacks_is_no_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in("import nothing_of_this_name\n", tmp_path, monkeypatch)
    with pytest.raises(ModuleNotFoundError, match="nothing_of_this_name"):
        _compat.import_coremltools("The test")


def test_coremltools_is_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> object:
        raise ModuleNotFoundError("No module named 'coremltools'", name="coremltools")

    monkeypatch.setattr("builtins.__import__", refuse)
    with pytest.raises(MissingExtra, match=r"edgeqkv\[coreml\]"):
        _compat.import_coremltools("Reading a package")


def test_without_its_progress_bars_there_is_nothing_to_hide() -> None:
    reached = False
    with _compat.without_progress_bars(SimpleNamespace()):
        reached = True
    assert reached


def test_progress_bars_are_hidden_and_come_back() -> None:
    coremltools = _compat.import_coremltools("The test")
    passes = coremltools.converters.mil.mil.passes.pass_pipeline
    drawn = passes.tqdm
    with _compat.without_progress_bars(coremltools):
        assert list(passes.tqdm([1, 2], desc="passes")) == [1, 2]
        assert passes.tqdm is not drawn
    assert passes.tqdm is drawn


def test_a_constant_that_cannot_be_shared_is_left_alone() -> None:
    older, newer = SimpleNamespace(op=SimpleNamespace(weight_id=None)), SimpleNamespace(op=object())
    _compat.store_once(older, "1")
    _compat.store_once(newer, "1")
    assert older.op.weight_id == "1"
