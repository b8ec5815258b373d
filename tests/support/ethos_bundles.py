"""Ethos-U85 bundles of the smallest models, without Vela: what it adds is tested where it is installed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import edgeqkv
from edgeqkv.backends.ethos import compiling
from edgeqkv.bundle.bundle import Bundle
from edgeqkv.extras import installed_version

needs_model = pytest.mark.skipif(
    installed_version("tosa-tools") is None, reason="tosa-tools, Arm's reference model, is not installed"
)
needs_compiler = pytest.mark.skipif(
    not all(map(installed_version, ("ethos-u-vela", "tosa-tools", "executorch"))),
    reason="ethos-u-vela and tosa-tools, Arm's compiler and reference model, are not installed",
)


@contextmanager
def without_compiler() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiling, "installed_version", lambda package: None)
        yield


def written(checkpoint: Path, out: Path, **options: Any) -> Bundle:
    """An export that stops at the graphs."""
    with without_compiler():
        return edgeqkv.export(edgeqkv.load(checkpoint), "ethos-u85", out=out, **options)
