"""edgeqkv: trained transformers that share key and value projections, exported to phones and proven.

    import edgeqkv

    model = edgeqkv.load("model.pt")
    bundle = edgeqkv.export(model, "onnx", out="build/phone")
    session = edgeqkv.open("build/phone", target="onnx")
    logits = session.feed([1, 2, 3])

Importing this package loads nothing heavy: torch and the runtimes come with the first function that needs them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeqkv.budget import budget
from edgeqkv.errors import (
    BundleError,
    CheckpointError,
    ContextFull,
    EdgeQKVError,
    InputError,
    MissingExtra,
    UnsupportedError,
    VariantError,
    VerificationFailed,
)
from edgeqkv.extras import needed_for
from edgeqkv.model.variants import Sharing, Variant

if TYPE_CHECKING:
    from edgeqkv.bundle.bundle import Bundle
    from edgeqkv.model.model import AnyModel
    from edgeqkv.run.session import EncoderSession, Session

__all__ = [
    "BundleError",
    "CheckpointError",
    "ContextFull",
    "EdgeQKVError",
    "InputError",
    "MissingExtra",
    "Sharing",
    "UnsupportedError",
    "Variant",
    "VariantError",
    "VerificationFailed",
    "budget",
    "export",
    "load",
    "open",
]


def load(path: str | Path, *, heads: int | None = None) -> AnyModel:
    """Read a checkpoint; see `edgeqkv.checkpoints.load`."""
    with needed_for("reading a checkpoint"):
        from edgeqkv import checkpoints
    return checkpoints.load(path, heads=heads)


def export(model: AnyModel, target: str | Sequence[str] = "onnx", **options: Any) -> Bundle:
    """Write a model for one or more targets and prove it.

    See `edgeqkv.pipeline.export.export` for the options of a language model, `edgeqkv.pipeline.export_encoder.export`
    for those of an encoder.
    """
    with needed_for("exporting"):
        from edgeqkv.model.model import EncoderModel
        from edgeqkv.pipeline import export as exporting
        from edgeqkv.pipeline import export_encoder as exporting_encoders
    if isinstance(model, EncoderModel):
        return exporting_encoders.export(model, target, **options)
    return exporting.export(model, target, **options)


def open(path: str | Path, target: str | None = None, engine: str | None = None) -> Session | EncoderSession:
    """Open a bundle for running, after comparing its files with their checksums.

    Args:
        path: the folder that `export` wrote.
        target: which of its targets; the only one if not given.
        engine: what is to run it; the backend's default if not given.

    Returns:
        A session: a decoder's to ``feed``, an encoder's to ``run``.

    Raises:
        BundleError: it is missing, damaged or changed.
        UnsupportedError: it holds no such target, or nothing here runs it.
        MissingExtra: the runtime is not installed.
    """
    from edgeqkv.bundle.bundle import Bundle

    bundle = Bundle(path)
    if bundle.manifest.model.kind == "encoder":
        return bundle.encoder_session(target, engine)
    return bundle.session(target, engine)
