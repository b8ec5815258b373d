"""The format's messages, wherever coremltools keeps them."""

from __future__ import annotations

import importlib.util
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

import pytest

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
