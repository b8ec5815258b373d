"""Writing an encoder as ONNX: one graph of static shapes and its weight file."""

from __future__ import annotations

from pathlib import Path

from edgeqkv.backends import EncoderRequest
from edgeqkv.backends.encoders import input_spec, output_spec
from edgeqkv.backends.onnx.encoder_ops import OnnxEncoderOps
from edgeqkv.backends.onnx.export import WEIGHT_FILE, weight_details
from edgeqkv.backends.onnx.graph import GraphBuilder
from edgeqkv.backends.onnx.weight_file import WeightFile
from edgeqkv.bundle.manifest import EncoderArtifact
from edgeqkv.extras import installed_version
from edgeqkv.model.model import EncoderModel, Tokens
from edgeqkv.progress import Report

__all__ = ["export_encoder"]

_FILE = "model.onnx"


def export_encoder(model: EncoderModel, directory: Path, request: EncoderRequest, report: Report) -> EncoderArtifact:
    """Write ``model.onnx`` into ``directory`` and describe it."""
    config = model.config
    input_, output = input_spec(config, request.batch, "int64"), output_spec(config, request.batch)
    with WeightFile(directory / WEIGHT_FILE) as weights:
        report(f"writing {_FILE}", None)
        builder = GraphBuilder("model", weights)
        ops = OnnxEncoderOps(builder, input_, config.hidden_size)
        ops.finish(model.network.outputs(ops, ops.inputs), output)
        builder.save(directory / _FILE, installed_version("edgeqkv") or "")
    return EncoderArtifact(
        target="onnx",
        form=request.form,
        weights=request.weights,
        batch=request.batch,
        file=_FILE,
        input=input_,
        output=output,
        values=config.input.vocab_size if isinstance(config.input, Tokens) else None,
        versions={name: installed_version(name) or "" for name in ("onnx-ir", "onnxruntime", "torch")},
        details=weight_details(weights),
    )
