"""Hexagon bundles of the smallest models, without the compiler: what it adds is tested where it is installed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import edgeqkv
from edgeqkv.backends.hexagon import compiling
from edgeqkv.bundle.bundle import Bundle
from edgeqkv.extras import installed_version

needs_compiler = pytest.mark.skipif(
    installed_version("onnxruntime-qnn") is None, reason="onnxruntime-qnn, Qualcomm's compiler, is not installed"
)


@contextmanager
def without_compiler() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiling, "installed_version", lambda package: None)
        yield


def written(checkpoint: Path, out: Path, **options: Any) -> Bundle:
    """An export that stops at the graphs."""
    with without_compiler():
        return edgeqkv.export(edgeqkv.load(checkpoint), "hexagon", out=out, **options)
