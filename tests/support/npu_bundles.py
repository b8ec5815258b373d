"""Bundles of NPU targets, without their compilers: what those add is tested where they are installed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import edgeqkv
from edgeqkv.backends import REGISTRY
from edgeqkv.bundle.bundle import Bundle
from edgeqkv.extras import installed_version
from edgeqkv.run.session import Session

needs_qualcomms_compiler = pytest.mark.skipif(
    installed_version("onnxruntime-qnn") is None, reason="onnxruntime-qnn, Qualcomm's compiler, is not installed"
)
needs_arms_model = pytest.mark.skipif(
    installed_version("tosa-tools") is None, reason="tosa-tools, Arm's reference model, is not installed"
)
needs_arms_compiler = pytest.mark.skipif(
    not all(map(installed_version, ("ethos-u-vela", "tosa-tools", "executorch"))),
    reason="ethos-u-vela and tosa-tools, Arm's compiler and reference model, are not installed",
)


@contextmanager
def without_compiler(target: str) -> Iterator[None]:
    compiling = import_module(f"{REGISTRY[target]}.compiling")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiling, "installed_version", lambda package: None)
        yield


def written(target: str, checkpoint: Path, out: Path, **options: Any) -> Bundle:
    """An export that stops at the graphs."""
    with without_compiler(target):
        return edgeqkv.export(edgeqkv.load(checkpoint), target, out=out, **options)


def opened(bundle: Bundle) -> Session:
    session = edgeqkv.open(bundle.path)
    assert isinstance(session, Session)
    return session
