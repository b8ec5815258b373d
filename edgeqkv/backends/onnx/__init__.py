"""ONNX, for ONNX Runtime on anything: graphs built directly, in pure ``ai.onnx`` where that is possible."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from edgeqkv.bundle.manifest import Artifact, EncoderArtifact
from edgeqkv.extras import needed_for

if TYPE_CHECKING:
    from edgeqkv.backends import EncoderRequest, Request
    from edgeqkv.model.model import EncoderModel, Model, TrainedModel
    from edgeqkv.progress import Report
    from edgeqkv.run.session import EncoderSession, Session

__all__ = ["BACKEND", "OnnxBackend"]

M = TypeVar("M", bound="TrainedModel")


class OnnxBackend:
    """Graphs whose state is an input and an output, to be bound to the same memory."""

    name = "onnx"
    title = "ONNX"
    packages = ("onnxruntime", "onnx-ir", "onnx")
    extra = "onnx"
    forms: Mapping[str, str] = {
        "portable": "one graph for prefill and decode, which reads only the filled part of the state",
        "static": "fixed shapes throughout, a prefill and a decode graph for each window of the state (NPUs)",
        "ort": "ONNX Runtime's own fused attention on one buffer",
        "genai": "a folder that the stock onnxruntime-genai runtime opens",
    }
    encoder_forms: Mapping[str, str] = {"static": "one graph of fixed shapes, for any runtime and for NPUs"}
    weights = ("int4", "int8", "fp16", "fp32")
    states = ("fp32", "fp16", "int8")
    takes_images = False
    engines = ("onnxruntime", "exact")
    proof_engine = "exact"

    def stores(self, model: M) -> M:
        return model

    def export(self, model: Model, directory: Path, request: Request, report: Report) -> Artifact:
        with needed_for("exporting to ONNX"):
            from edgeqkv.backends.onnx.export import export
        return export(model, directory, request, report)

    def open(self, directory: Path, artifact: Artifact, engine: str) -> Session:
        with needed_for("running an ONNX bundle"):
            from edgeqkv.backends.onnx.session import OnnxSession
        return OnnxSession(directory, artifact, engine)

    def export_encoder(
        self, model: EncoderModel, directory: Path, request: EncoderRequest, report: Report
    ) -> EncoderArtifact:
        with needed_for("exporting to ONNX"):
            from edgeqkv.backends.onnx.encoder_export import export_encoder
        return export_encoder(model, directory, request, report)

    def open_encoder(self, directory: Path, artifact: EncoderArtifact, engine: str) -> EncoderSession:
        with needed_for("running an ONNX bundle"):
            from edgeqkv.backends.onnx.encoder_session import OnnxEncoderSession
        return OnnxEncoderSession(directory, artifact, engine)


BACKEND = OnnxBackend()
