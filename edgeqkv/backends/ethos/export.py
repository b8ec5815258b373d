"""Writing a model for Ethos-U85: TOSA graphs, and what Vela makes of them in one program."""

from __future__ import annotations

from pathlib import Path

from edgeqkv.backends.described import described
from edgeqkv.backends.ends import input_spec, output_spec
from edgeqkv.backends.ethos.compiling import compiled
from edgeqkv.backends.ethos.decoder import DecoderOps
from edgeqkv.backends.ethos.encoder import EncoderOps
from edgeqkv.backends.ethos.forms import EXPERIMENTAL
from edgeqkv.backends.ethos.graph import TosaGraph, Value, symmetric
from edgeqkv.backends.features import check_features
from edgeqkv.backends.fixed import FEATURES, graphs_of, observed
from edgeqkv.backends.target import TargetSpec
from edgeqkv.bundle.manifest import Artifact, Graph, StateTensor
from edgeqkv.model.activations import ActivationRanges
from edgeqkv.model.model import Model
from edgeqkv.progress import Progress

__all__ = ["export"]


def export(model: Model, directory: Path, spec: TargetSpec, on_progress: Progress) -> Artifact:
    """Write the graphs, and compile them.

    Raises:
        UnsupportedError: the graphs cannot hold the model, or Vela refuses one or leaves an operation to the CPU.
    """
    check_features(model.network, "Ethos-U85", FEATURES)
    ranges = observed(model, spec, on_progress)
    graphs: list[Graph] = []
    scales: dict[str, float] = {}
    state: tuple[StateTensor, ...] = ()
    for name, tokens in graphs_of(model, spec):
        on_progress(f"writing {name}", None)
        graph = TosaGraph()
        if model.causal:
            scales[name], state = _build_decoder(graph, model, ranges, spec, tokens)
        else:
            scales[name] = _build_encoder(graph, model, ranges, spec)
        file = f"ethos_{name}.tosa"
        (directory / file).write_bytes(graph.serialized())
        inputs, outputs = tuple(graph.inputs), tuple(graph.outputs)
        graphs.append(Graph(name=name, file=file, tokens=tokens, inputs=inputs, outputs=outputs))
    artifact = described(
        "ethos-u85",
        spec,
        graphs,
        vocab_size=model.config.vocab_size,
        packages=("torch", "executorch", "ethos-u-vela", "tosa-tools"),
        state=state,
        axes=("batch", "kv_heads", "context", "head_dim"),
        details={
            "soc": spec.soc,
            "memory_mode": spec.memory_mode,
            "system_config": spec.system_config,
            "activations": "int8" if _narrow(spec) else "int16",
            "logit_scales": scales,
            **({"experimental": EXPERIMENTAL[spec.form]} if spec.form in EXPERIMENTAL else {}),
            **({} if model.state_scales is None else {"state_scales": dict(model.state_scales.of)}),
            **({"input_scale": symmetric(*ranges.of["input"]).scale} if graphs[0].inputs[0].dtype == "fp32" else {}),
        },
    )
    return compiled(directory, artifact, on_progress)


def _narrow(spec: TargetSpec) -> bool:
    return spec.form == "int8"


def _build_decoder(
    graph: TosaGraph, model: Model, ranges: ActivationRanges, spec: TargetSpec, tokens: int
) -> tuple[float, tuple[StateTensor, ...]]:
    """Write a graph; the scale of its logits, and the state that the caller keeps."""
    assert model.state_scales is not None, "the state is in int8"
    context = int(spec.context or 1)
    ops = DecoderOps(graph, ranges, model.state_scales, context=context, tokens=tokens, narrow=_narrow(spec))
    logits: Value = model.network.outputs(ops, ops.ids)
    return logits.scale, ops.finish(logits)


def _build_encoder(graph: TosaGraph, model: Model, ranges: ActivationRanges, spec: TargetSpec) -> float:
    """Write the graph; the scale of what it gives."""
    ops = EncoderOps(graph, ranges, batch=spec.batch, narrow=_narrow(spec))
    result: Value = model.network.outputs(ops, ops.given(input_spec(model.config, spec.batch, "int32")))
    ops.finish(result, output_spec(model.config, spec.batch))
    return result.scale
