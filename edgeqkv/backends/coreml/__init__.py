"""Core ML, for iPhones, iPads and Macs: a package with prefill and decode functions on one state, or an encoder's.

Programs are built with coremltools, which writes them on any machine. Running them takes Apple hardware; on
other machines, `edgeqkv.mil.evaluator` runs the saved package operation by operation.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, TypeVar

from edgeqkv.bundle.manifest import Artifact, EncoderArtifact
from edgeqkv.extras import needed_for

if TYPE_CHECKING:
    from edgeqkv.backends import EncoderRequest, Request
    from edgeqkv.model.model import EncoderModel, Model, TrainedModel
    from edgeqkv.progress import Report
    from edgeqkv.run.session import EncoderSession, Session

__all__ = ["BACKEND", "CoreMLBackend"]

M = TypeVar("M", bound="TrainedModel")


class CoreMLBackend:
    """ML Programs (iOS 18, macOS 15) in fp16, whose state the system keeps."""

    name = "coreml"
    title = "Core ML"
    packages = ("coremltools",)
    extra = "coreml"
    forms: Mapping[str, str] = MappingProxyType(
        {
            "linear": "GPU and CPU: matrix products, new rows written into the state at their position",
            "linear-onehot": "as linear, the state updated at constant indices",
            "conv": "Neural Engine: 1x1 convolutions, the state updated at constant indices, no dimension over 16384",
            "conv-slice": "as conv, new rows written into the state at their position",
            "swift-transformers": "for that library's runner, with fullAttentionMask (its pull request 331)",
            "swift-transformers-1": "for that library's runner, with causalMask (its releases up to 1.3.3)",
        }
    )
    encoder_forms: Mapping[str, str] = MappingProxyType(
        {
            "linear": "GPU and CPU: matrix products",
            "conv": "Neural Engine: 1x1 convolutions, no dimension over 16384",
        }
    )
    weights = ("int4", "int8", "lut4", "fp16")
    states = ("fp16",)
    takes_images = True
    engines = (*(("coreml",) if sys.platform == "darwin" else ()), "evaluator", "evaluator-fp16")
    proof_engine = "evaluator"

    def stores(self, model: M) -> M:
        return model

    def export(self, model: Model, directory: Path, request: Request, report: Report) -> Artifact:
        with needed_for("exporting to Core ML"):
            from edgeqkv.backends.coreml.export import export
        return export(model, directory, request, report)

    def open(self, directory: Path, artifact: Artifact, engine: str) -> Session:
        with needed_for("running a Core ML bundle"):
            from edgeqkv.backends.coreml.session import CoreMLSession
        return CoreMLSession(directory, artifact, engine)

    def export_encoder(
        self, model: EncoderModel, directory: Path, request: EncoderRequest, report: Report
    ) -> EncoderArtifact:
        with needed_for("exporting to Core ML"):
            from edgeqkv.backends.coreml.encoder_export import export_encoder
        return export_encoder(model, directory, request, report)

    def open_encoder(self, directory: Path, artifact: EncoderArtifact, engine: str) -> EncoderSession:
        with needed_for("running a Core ML bundle"):
            from edgeqkv.backends.coreml.encoder_session import CoreMLEncoderSession
        return CoreMLEncoderSession(directory, artifact, engine)


BACKEND = CoreMLBackend()
