"""Writing a model as ONNX: one or more graphs and the one weight file that they share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from edgeqkv.backends.described import described
from edgeqkv.backends.ends import input_spec, output_spec
from edgeqkv.backends.facts import facts, summary
from edgeqkv.backends.features import check_features
from edgeqkv.backends.onnx.forms import is_fused, most_tokens
from edgeqkv.backends.onnx.genai import GenaiSignature
from edgeqkv.backends.onnx.genai_files import CONFIG, check_ends, write_files
from edgeqkv.backends.onnx.graph import GraphBuilder
from edgeqkv.backends.onnx.ops import OnnxOps, StatefulOps
from edgeqkv.backends.onnx.ort_ops import OrtOps
from edgeqkv.backends.onnx.signatures import GraphSignature, OwnSignature
from edgeqkv.backends.onnx.standard_ops import StandardOps
from edgeqkv.backends.onnx.weight_file import WeightFile
from edgeqkv.backends.target import TargetSpec
from edgeqkv.bundle.manifest import Artifact, Graph, StateTensor
from edgeqkv.errors import UnsupportedError
from edgeqkv.extras import installed_version
from edgeqkv.model.model import Model
from edgeqkv.progress import Progress

__all__ = ["WEIGHT_FILE", "export"]

WEIGHT_FILE = "model.onnx.data"

_FEATURES: Final = frozenset(
    {
        "rms normalization",
        "normalization scales with an offset",
        "normalization without scale",
        "the activation gelu_tanh",
        "the activation silu",
        "the activation relu",
        "layers with different heads",
        "layers that share differently",
        "a logit softcap",
    }
)
"""What every form has beyond plain layers."""

_CAUSAL_FEATURES: Final = _FEATURES | {
    "rotary positions",
    "an attention window",
    "an attention softcap",
    "query or key normalization",
    "value normalization",
    "rows that are keys and values",
    "layers with inputs of their own",
}
"""And what every form of a decoder has."""

_UNFUSED_FEATURES: Final = _CAUSAL_FEATURES | {
    "normalized or rotated keys of a merged state",
    "layers that read another layer's state",
}
"""And those whose attention is made of the standard's own operators."""

_SMALLEST_WINDOW = 256

_HEAD_MULTIPLE: Final = 8


def export(model: Model, directory: Path, spec: TargetSpec, on_progress: Progress) -> Artifact:
    """Write the graphs of the asked form; see `OnnxTarget` for the forms.

    Raises:
        UnsupportedError: the form cannot hold the model.
    """
    fused = is_fused(spec)
    causal = _CAUSAL_FEATURES if fused else _UNFUSED_FEATURES
    if spec.form == "genai":  # that runtime allocates one shape for all of the state
        causal -= {"layers with different heads"}
    check_features(model.network, "ONNX", causal if model.causal else _FEATURES)
    if fused:
        _check_heads(model, spec)
    if spec.form == "genai":
        check_ends(spec)
    builders, graphs = [], []
    state: tuple[StateTensor, ...] = ()
    with WeightFile(directory / WEIGHT_FILE) as weights:
        for name, tokens, window, done in _plan(model, spec):
            on_progress(f"writing {name}.onnx", done)
            builder = GraphBuilder(name, weights)
            if model.causal:
                state = _build_decoder(builder, model, directory, spec, tokens, window)
            else:
                _build_encoder(builder, model, spec)
            builders.append(builder)
            graphs.append(
                Graph(
                    name=name,
                    file=f"{name}.onnx",
                    tokens=tokens or spec.chunk or 1,
                    fixed=tokens is not None,
                    window=window,
                    inputs=builder.inputs,
                    outputs=builder.outputs,
                )
            )
    artifact = described(
        "onnx",
        spec,
        graphs,
        vocab_size=model.config.vocab_size,
        packages=("onnx-ir", "onnxruntime", "torch"),
        state=state,
        axes=("batch", "kv_heads", "context", "head_dim"),
        details={
            "weight_file": WEIGHT_FILE,
            "opset": 24,
            "code_layouts": weights.layouts,
            **_form_details(spec),
            **_state_details(model),
        },
    )
    version, description, about = installed_version("edgeqkv") or "", summary(model, artifact), facts(model, artifact)
    for builder, graph in zip(builders, graphs, strict=True):
        builder.save(directory / graph.file, version, description, about)
    return artifact


def _build_decoder(
    builder: GraphBuilder, model: Model, directory: Path, spec: TargetSpec, tokens: int | None, window: int | None
) -> tuple[StateTensor, ...]:
    signature = _signature(builder, model, spec, tokens)
    ops = _ops(builder, signature, model, spec, window)
    state = signature.finish(model.network.outputs(ops, signature.tokens), model.config.vocab_size)
    if isinstance(signature, GenaiSignature):
        write_files(directory, model, spec, "model.onnx", signature.layers)
    return state


def _build_encoder(builder: GraphBuilder, model: Model, spec: TargetSpec) -> None:
    config = model.config
    input_, output = input_spec(config, spec.batch, "int64"), output_spec(config, spec.batch)
    ops = OnnxOps(builder, batch=spec.batch, channels=config.hidden_size)
    given = builder.input(input_.name, input_.dtype, input_.shape, input_.role)
    if config.input.kind == "features":  # each is a token; ids and pixels are taken apart by what reads them
        given = builder.op("Reshape", given, builder.constant([-1, config.input.size]))
    sizes = [int(size) for size in output.shape]
    logits = builder.op("Reshape", model.network.outputs(ops, given), builder.constant(sizes))
    builder.output(logits, output.name, output.dtype, sizes, output.role)


def _check_heads(model: Model, spec: TargetSpec) -> None:
    sizes = {block.attention.heads.dim for block in model.network.blocks}
    if size := next((size for size in sorted(sizes) if size % _HEAD_MULTIPLE), None):
        instead = "--form portable" if spec.form == "ort" else "--state fp32"
        raise UnsupportedError(
            f"heads of {size} channels: ONNX Runtime's fused attention takes multiples of {_HEAD_MULTIPLE}. Export it "
            f"with {instead}"
        )


def _signature(builder: GraphBuilder, model: Model, spec: TargetSpec, tokens: int | None) -> GraphSignature:
    context, state = int(spec.context or 0), str(spec.state)
    specs = model.state(context, most_tokens(spec))
    if spec.form == "genai":
        return GenaiSignature(builder, specs, context=context, state=state)
    return OwnSignature(builder, specs, context=context, state=state, tokens=tokens)


def _ops(
    builder: GraphBuilder, signature: GraphSignature, model: Model, spec: TargetSpec, window: int | None
) -> StatefulOps:
    if is_fused(spec):
        return OrtOps(builder, signature, scales=model.state_scales)
    return StandardOps(builder, signature, window=window, scales=model.state_scales)


def _form_details(spec: TargetSpec) -> dict[str, Any]:
    return {"genai_config": CONFIG} if spec.form == "genai" else {}


def _state_details(model: Model) -> dict[str, Any]:
    return {} if model.state_scales is None else {"state_scales": dict(model.state_scales.of)}


def _plan(model: Model, spec: TargetSpec) -> Iterator[tuple[str, int | None, int | None, float | None]]:
    """Name, tokens and window of every graph, and the part of them that comes before it.

    One graph that takes any number of tokens, or a pair of fixed ones for each window; an encoder's takes whole inputs.
    """
    if not model.causal:
        yield "model", 1, None, None
    elif spec.form != "static":
        yield "model", None, None, None
    else:
        pairs = list(_pairs(int(spec.context or 0), int(spec.chunk or 1)))
        for index, (name, tokens, window) in enumerate(pairs):
            yield name, tokens, window, index / len(pairs)


def _pairs(context: int, chunk: int) -> Iterator[tuple[str, int, int]]:
    windows = []
    window = _SMALLEST_WINDOW
    while window < context:
        windows.append(window)
        window *= 2
    for window in (*windows, context):
        if chunk > 1 and window >= chunk:
            yield f"prefill_{window}", chunk, window
        yield f"decode_{window}", 1, window
