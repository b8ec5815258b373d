"""Writing a model as ONNX: one or more graphs and the one weight file that they share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from edgeqkv.backends import Request
from edgeqkv.backends.onnx.calls import Call, OwnCall
from edgeqkv.backends.onnx.genai import GenaiCall
from edgeqkv.backends.onnx.genai_files import CONFIG, write_files
from edgeqkv.backends.onnx.graph import GraphBuilder
from edgeqkv.backends.onnx.ops import OnnxOps
from edgeqkv.backends.onnx.ort_ops import OrtOps
from edgeqkv.backends.onnx.standard_ops import StandardOps
from edgeqkv.backends.onnx.weight_file import WeightFile
from edgeqkv.bundle.manifest import Artifact, Graph
from edgeqkv.errors import UnsupportedError
from edgeqkv.extras import installed_version
from edgeqkv.model.architectures.decoder import decode
from edgeqkv.model.model import Model
from edgeqkv.progress import Report

__all__ = ["WEIGHT_FILE", "export", "weight_details"]

WEIGHT_FILE = "model.onnx.data"

_SMALLEST_WINDOW = 256

_HEAD_MULTIPLE: Final = 8


def export(model: Model, directory: Path, request: Request, report: Report) -> Artifact:
    """Write the graphs of the asked form; see `OnnxBackend` for the forms.

    Raises:
        UnsupportedError: the form cannot hold the model.
    """
    if _is_fused(request):
        _check_heads(model, request)
    graphs = []
    with WeightFile(directory / WEIGHT_FILE) as weights:
        planned = list(_plan(request))
        for index, (name, tokens, window) in enumerate(planned):
            report(f"writing {name}.onnx", index / len(planned))
            builder = GraphBuilder(name, weights)
            call = _call(builder, request, tokens)
            ops = _ops(builder, call, model, request, window)
            state = call.finish(decode(ops, model.network, call.tokens), model.config.vocab_size)
            builder.save(directory / f"{name}.onnx", installed_version("edgeqkv") or "")
            if isinstance(call, GenaiCall):
                write_files(directory, model, request, f"{name}.onnx", call.layers)
            graphs.append(
                Graph(
                    name=name,
                    file=f"{name}.onnx",
                    tokens=tokens or request.chunk,
                    fixed=tokens is not None,
                    window=window,
                    inputs=builder.inputs,
                    outputs=builder.outputs,
                )
            )
    return Artifact(
        target="onnx",
        form=request.form,
        weights=request.weights,
        state=request.state,
        context=request.context,
        chunk=request.chunk,
        vocab_size=model.config.vocab_size,
        axes=("batch", "kv_heads", "context", "head_dim"),
        graphs=tuple(graphs),
        state_tensors=state,
        versions={name: installed_version(name) or "" for name in ("onnx-ir", "onnxruntime", "torch")},
        details={**weight_details(weights), **_form_details(request), **_state_details(model)},
    )


def _is_fused(request: Request) -> bool:
    """Whether attention is ONNX Runtime's own operator, which makes no float copy of an int8 state."""
    return request.form == "ort" or (request.form == "genai" and request.state == "int8")


def _check_heads(model: Model, request: Request) -> None:
    size = model.config.head_dim
    if size % _HEAD_MULTIPLE:
        instead = "--form portable" if request.form == "ort" else "--state fp32"
        raise UnsupportedError(
            f"heads of {size} channels: ONNX Runtime's fused attention takes multiples of {_HEAD_MULTIPLE}. Export it "
            f"with {instead}"
        )


def _call(builder: GraphBuilder, request: Request, tokens: int | None) -> Call:
    if request.form == "genai":
        return GenaiCall(builder, context=request.context, state=request.state)
    return OwnCall(builder, context=request.context, state=request.state, tokens=tokens)


def _ops(builder: GraphBuilder, call: Call, model: Model, request: Request, window: int | None) -> OnnxOps:
    if _is_fused(request):
        return OrtOps(builder, call, scales=model.state_scales)
    return StandardOps(builder, call, window=window, scales=model.state_scales)


def weight_details(weights: WeightFile) -> dict[str, Any]:
    """What an export says of its weights: where they are, and what the runtime's kernels have to know of codes."""
    return {"weight_file": WEIGHT_FILE, "opset": 24, "code_layouts": weights.layouts}


def _form_details(request: Request) -> dict[str, Any]:
    return {"genai_config": CONFIG} if request.form == "genai" else {}


def _state_details(model: Model) -> dict[str, Any]:
    return {} if model.state_scales is None else {"state_scales": dict(model.state_scales.of)}


def _plan(request: Request) -> Iterator[tuple[str, int | None, int | None]]:
    """Name, tokens and window of every graph: one that takes any, or a pair of fixed ones for each window."""
    if request.form != "static":
        yield "model", None, None
        return
    windows = []
    window = _SMALLEST_WINDOW
    while window < request.context:
        windows.append(window)
        window *= 2
    for window in (*windows, request.context):
        if request.chunk > 1 and window >= request.chunk:
            yield f"prefill_{window}", request.chunk, window
        yield f"decode_{window}", 1, window
