"""Writing a model for Hexagon: QDQ graphs on one weight file, and what the compiler makes of them."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from edgeqkv.backends.described import described
from edgeqkv.backends.ends import input_spec, output_spec
from edgeqkv.backends.features import check_features
from edgeqkv.backends.fixed import FEATURES, graphs_of, observed
from edgeqkv.backends.hexagon.compiling import compiled
from edgeqkv.backends.hexagon.decoder import DecoderOps
from edgeqkv.backends.hexagon.graph import QdqGraph, Value, WeightFile
from edgeqkv.backends.hexagon.ops import EncoderOps, token_ids
from edgeqkv.backends.target import TargetSpec
from edgeqkv.bundle.manifest import Artifact, Graph, StateTensor
from edgeqkv.extras import installed_version
from edgeqkv.model.activations import ActivationRanges
from edgeqkv.model.model import Model
from edgeqkv.progress import Progress

__all__ = ["WEIGHT_FILE", "export"]

WEIGHT_FILE: Final = "hexagon.data"


def export(model: Model, directory: Path, spec: TargetSpec, on_progress: Progress) -> Artifact:
    """Write the graphs, and compile them where the compiler is installed.

    Raises:
        UnsupportedError: the graphs cannot hold the model, or the compiler leaves an operation to the CPU.
        VerificationFailed: what was compiled does not compute what the graphs do.
    """
    check_features(model.network, "Hexagon", FEATURES)
    ranges = observed(model, spec, on_progress)
    graphs: list[Graph] = []
    state: tuple[StateTensor, ...] = ()
    with WeightFile(directory / WEIGHT_FILE) as weights:
        for name, tokens in graphs_of(model, spec):
            on_progress(f"writing {name}", None)
            graph = QdqGraph(name, weights)
            if model.causal:
                state = _build_decoder(graph, model, ranges, int(spec.context or 1), tokens)
            else:
                _build_encoder(graph, model, ranges, spec.batch)
            file = f"hexagon_{name}.onnx"
            graph.save(directory / file, installed_version("edgeqkv") or "")
            graphs.append(Graph(name=name, file=file, tokens=tokens, inputs=graph.inputs, outputs=graph.outputs))
    artifact = described(
        "hexagon",
        spec,
        graphs,
        vocab_size=model.config.vocab_size,
        packages=("onnx", "onnxruntime", "torch"),
        state=state,
        axes=("batch", "kv_heads", "context", "head_dim"),
        details={
            "weight_file": WEIGHT_FILE,
            "activations": "uint16",
            "soc": spec.soc,
            **({} if model.state_scales is None else {"state_scales": dict(model.state_scales.of)}),
        },
    )
    return compiled(directory, artifact, str(spec.soc), on_progress)


def _build_decoder(
    graph: QdqGraph, model: Model, ranges: ActivationRanges, context: int, tokens: int
) -> tuple[StateTensor, ...]:
    assert model.state_scales is not None, "the state is in int8"
    ops = DecoderOps(graph, ranges, model.state_scales, context=context, tokens=tokens)
    return ops.finish(model.network.outputs(ops, ops.ids))


def _build_encoder(graph: QdqGraph, model: Model, ranges: ActivationRanges, batch: int) -> None:
    config = model.config
    given, made = input_spec(config, batch, "int32"), output_spec(config, batch)
    ops = EncoderOps(graph, ranges, batch)
    sizes = tuple(int(size) for size in given.shape)
    graph.input(given.name, given.dtype, sizes, given.role)
    start = token_ids(given.name, sizes) if given.role == "tokens" else ops.given(given.name, sizes)
    logits: Value = model.network.outputs(ops, start)
    graph.real(graph.reshape(logits, *(int(size) for size in made.shape)), output=made.name)
    graph.output(made.name, made.dtype, [int(size) for size in made.shape], made.role)
