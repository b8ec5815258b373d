"""The format's messages, wherever coremltools keeps them."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

import pytest
from mil_packages import product_package

from edgeqkv.mil import _compat
from edgeqkv.mil.proto import messages


def test_messages_that_cannot_be_had_alone_are_had_from_coremltools(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if the folder had another name: coremltools is then imported, here a stand-in."""
    whole = ModuleType("coremltools")
    whole.__spec__ = ModuleSpec("coremltools", None, origin=str(tmp_path / "__init__.py"))
    monkeypatch.delitem(sys.modules, "coremltools", raising=False)
    monkeypatch.delitem(sys.modules, _compat.PROTO, raising=False)
    monkeypatch.delitem(sys.modules, f"{_compat.PROTO}.Model_pb2", raising=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: whole.__spec__)
    assert _compat.messages_alone("Model_pb2") is None
    for name in ("proto", "proto.Model_pb2"):
        monkeypatch.setitem(sys.modules, f"coremltools.{name}", ModuleType(f"coremltools.{name}"))
    assert messages("Model_pb2") is sys.modules["coremltools.proto.Model_pb2"]


def test_without_coremltools_there_are_no_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "coremltools", None)
    monkeypatch.delitem(sys.modules, _compat.PROTO, raising=False)
    with pytest.raises(ModuleNotFoundError) as caught:
        messages("Model_pb2")
    assert caught.value.name == "coremltools"


ALONE = """
import sys
from edgeqkv.mil import Package

Package(sys.argv[1])
assert not {"coremltools", "torch"} & set(sys.modules)
from edgeqkv.mil import Evaluator

evaluator = Evaluator(sys.argv[1])
assert "coremltools" not in sys.modules
from edgeqkv.backends.coreml._compat import import_coremltools

assert import_coremltools("The test").proto.Model_pb2.Model
assert not {"executorch", "sklearn", "torchao"} & set(sys.modules)
assert Evaluator(sys.argv[1]).inputs == evaluator.inputs
import torchao
"""


def test_a_package_is_read_without_coremltools_and_its_frameworks() -> None:
    subprocess.run([sys.executable, "-W", "ignore", "-c", ALONE, str(product_package())], check=True)
