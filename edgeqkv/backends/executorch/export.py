"""Writing a model as ``model.pte``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

import torch

from edgeqkv.backends.described import described
from edgeqkv.backends.ends import input_spec, output_spec
from edgeqkv.backends.executorch._compat import require_gathering_operators
from edgeqkv.backends.executorch._compat.tracing import (
    compiled_when_called,
    decomposed_once,
    histories_shared,
    operators_listed_once,
    results_kept,
    rounding_not_traced,
)
from edgeqkv.backends.executorch.encoder_module import EncoderModule
from edgeqkv.backends.executorch.module import DecoderModule, WeightsModule, state_name, state_of
from edgeqkv.backends.executorch.order import largest_early
from edgeqkv.backends.executorch.program import MemoryPlan, ProgramFile
from edgeqkv.backends.executorch.quiet import third_party_notices_silenced
from edgeqkv.backends.executorch.repeated import NotRepeatedError, Repetition, repeat, repetition
from edgeqkv.backends.facts import facts
from edgeqkv.backends.features import check_features
from edgeqkv.backends.target import TargetSpec
from edgeqkv.bundle.manifest import Artifact, Graph, StateTensor, TensorSpec
from edgeqkv.memory import garbage_kept
from edgeqkv.model.architectures.decoder import Decoder
from edgeqkv.model.model import Model
from edgeqkv.model.weights import QuantizedWeight
from edgeqkv.progress import Progress

with third_party_notices_silenced():
    from executorch.extension.llm.custom_ops import custom_ops  # noqa: F401  registers torch.ops.llama

    from edgeqkv.backends.executorch.lowering import Lowered, Metadata, lower, write
    from edgeqkv.backends.executorch.tied import store_once

__all__ = ["FILE", "PACKAGES", "export", "planned_memory"]

FILE: Final = "model.pte"

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
        "rotary positions",
        "query or key normalization",
        "normalized or rotated keys of a merged state",
        "an attention softcap",
        "an attention window",
        "value normalization",
        "rows that are keys and values",
        "layers with inputs of their own",
        "layers that read another layer's state",
    }
)
"""What an export has beyond plain layers."""

_AXES: Final = ("batch", "context", "kv_heads", "head_dim")

PACKAGES: Final = ("torch", "executorch", "torchao")


def export(model: Model, directory: Path, spec: TargetSpec, on_progress: Progress) -> Artifact:
    """Write ``model.pte`` into ``directory`` and describe it."""
    check_features(model.network, "ExecuTorch", _FEATURES)
    if any(isinstance(weight, QuantizedWeight) for weight in model.weights):
        require_gathering_operators()
    graphs = _graphs(model, spec)
    artifact = _artifact(model, spec, graphs)
    metadata: Metadata = {name.replace(".", "_"): fact for name, fact in facts(model, artifact).items()}
    if model.causal:
        metadata |= _metadata(model, spec, graphs)
    with third_party_notices_silenced(), torch.no_grad(), _quickly():
        try:
            program, delegation = _lowered(model, spec, graphs, metadata, _repetition(model), on_progress)
        except NotRepeatedError:
            program, delegation = _lowered(model, spec, graphs, metadata, None, on_progress)
        on_progress("write the program", None)
        write(program, directory / FILE)
    saved = store_once(directory / FILE)
    largest_early(directory / FILE)
    file = ProgramFile(directory / FILE)
    plans = file.plans()
    return artifact.model_copy(
        update={
            "state_tensors": _state(plans, spec.context),
            "details": {
                "delegation": delegation,
                "shared_bytes": saved,
                "file_bytes": file.path.stat().st_size,
                "planned_memory_bytes": planned_memory(plans),
                "planned_memory": {name: sum(plan.arenas.values()) for name, plan in plans.items()},
                **_scales(model),
            },
        }
    )


def _repetition(model: Model) -> Repetition | None:
    """How the model's layers repeat, so that some of them need not be traced."""
    network = model.network
    if not isinstance(network, Decoder) or network.layer_inputs is not None or model.state_scales is not None:
        return None
    return repetition(network.blocks)


def _lowered(
    model: Model,
    spec: TargetSpec,
    graphs: tuple[Graph, ...],
    metadata: Metadata,
    found: Repetition | None,
    on_progress: Progress,
) -> Lowered:
    """Trace a model's methods and delegate them."""
    module: WeightsModule
    if model.causal:
        module = DecoderModule(model, spec, None if found is None else found.traced).eval()
    else:
        module = EncoderModule(model).eval()

    def complete(program: torch.export.ExportedProgram) -> None:
        if found is not None and isinstance(module, DecoderModule):
            repeat(program, module, found)

    programs = {}
    for graph in graphs:
        on_progress(f"trace {graph.name}", None)
        programs[graph.name] = _trace(module, graph)
    on_progress("lower to XNNPACK", 0.0)
    lowered = lower(programs, metadata, complete, _Serialized(module, len(graphs), on_progress))
    on_progress("lower to XNNPACK", 1.0)
    return lowered


def _artifact(model: Model, spec: TargetSpec, graphs: tuple[Graph, ...]) -> Artifact:
    """The description as far as it is known before the program is written; the state as it is asked for."""
    state = tuple(
        _tensor(each.layer, each.role, str(spec.state), (1, each.length, each.kv_heads, each.dim), spec.context)
        for each in (model.state(int(spec.context or 0), spec.chunk or 1) if model.causal else ())
    )
    return described(
        "executorch",
        replace(spec, chunk=max(graph.tokens for graph in graphs) if model.causal else None),
        graphs,
        vocab_size=model.config.vocab_size,
        packages=PACKAGES,
        state=state,
        axes=_AXES,
    )


@contextmanager
def _quickly() -> Iterator[None]:
    """Without what takes most of an export's time and changes no byte of it."""
    with (
        garbage_kept(),
        histories_shared(),
        compiled_when_called(),
        decomposed_once(),
        operators_listed_once(),
        results_kept(),
        rounding_not_traced(),
    ):
        yield


def _graphs(model: Model, spec: TargetSpec) -> tuple[Graph, ...]:
    """The methods, and how they are called."""
    if not model.causal:
        config = model.config
        inputs, outputs = (input_spec(config, spec.batch, "int64"),), (output_spec(config, spec.batch),)
        return (Graph(name="forward", file=FILE, inputs=inputs, outputs=outputs),)
    return tuple(
        _decoder_graph(model, method, tokens, fixed=spec.form == "static" or tokens == 1)
        for method, tokens in _methods(spec).items()
    )


def _methods(spec: TargetSpec) -> dict[str, int]:
    """Method name → the most tokens that it takes."""
    chunk = int(spec.chunk or 1)
    if spec.form == "static":
        return {"prefill": chunk, "decode": 1}
    # torch.export reasons as if a dynamic length were at least 2. Of two positions that would leave the first
    # alone to start at, and it would be built in as a constant: there, tokens go one by one.
    return {"forward": chunk if int(spec.context or 0) > 2 else 1}


def _decoder_graph(model: Model, method: str, tokens: int, *, fixed: bool) -> Graph:
    ids = TensorSpec(name="tokens", dtype="int64", shape=(1, tokens if fixed else "tokens"), role="tokens")
    start = TensorSpec(name="input_pos", dtype="int64", shape=(1,), role="start")
    logits = TensorSpec(name="logits", dtype="fp32", shape=(1, model.config.vocab_size), role="logits")
    return Graph(name=method, file=FILE, tokens=tokens, fixed=fixed, inputs=(ids, start), outputs=(logits,))


def _trace(module: torch.nn.Module, graph: Graph) -> torch.export.ExportedProgram:
    example = tuple(
        torch.zeros(
            [graph.tokens if isinstance(size, str) else size for size in spec.shape],
            dtype=getattr(torch, spec.numpy_dtype),
        )
        for spec in graph.inputs
    )
    shapes = tuple(
        {1: torch.export.Dim("tokens", min=1, max=graph.tokens)} if "tokens" in spec.shape else None
        for spec in graph.inputs
    )
    return torch.export.export(module, example, dynamic_shapes=shapes, strict=False)


class _Serialized:
    """Follows the weights through the lowering: reports, and gives their memory back."""

    def __init__(self, module: WeightsModule, methods: int, on_progress: Progress) -> None:
        self._weights = module.weights
        self._on_progress = on_progress
        self._done = 0
        self._total = methods * sum(weight.tensor.numel() for weight in module.weights.values())

    def __call__(self, names: list[str]) -> None:
        # The rest are parts of quantized matrices beside their codes.
        for name in self._weights.keys() & set(names):
            weight = self._weights[name]
            weight.release_pages()
            self._done += weight.tensor.numel()
        self._on_progress("lower to XNNPACK", min(1.0, self._done / self._total))


def _metadata(model: Model, spec: TargetSpec, graphs: tuple[Graph, ...]) -> Metadata:
    """What the runners ask of a file. ``get_max_seq_len`` is the prefill chunk, not the context."""
    metadata: Metadata = {
        "get_max_seq_len": max(graph.tokens for graph in graphs),
        "get_max_context_len": int(spec.context or 0),
        "get_vocab_size": model.config.vocab_size,
        "get_n_layers": model.config.layers,
        "use_kv_cache": True,
        "use_sdpa_with_kv_cache": spec.form != "portable",
        "enable_dynamic_shape": spec.form != "static",
    }
    if spec.bos_id is not None:
        metadata["get_bos_id"] = spec.bos_id
    if spec.eos_token_ids:
        metadata["get_eos_ids"] = list(spec.eos_token_ids)
    return metadata


def _scales(model: Model) -> dict[str, dict[str, float]]:
    return {} if model.state_scales is None else {"state_scales": dict(model.state_scales.of)}


def planned_memory(plans: Mapping[str, MemoryPlan]) -> int:
    """Bytes that the runtime allocates when every method is loaded: the state once, the rest for each."""
    state = {buffer.arena for plan in plans.values() for buffer in plan.buffers} if len(plans) > 1 else set()
    own = sum(size for plan in plans.values() for arena, size in plan.arenas.items() if arena not in state)
    return own + sum(max(plan.arenas.get(arena, 0) for plan in plans.values()) for arena in state)


def _state(plans: Mapping[str, MemoryPlan], context: int | None) -> tuple[StateTensor, ...]:
    """The state as the memory plan has it; what lies in the same place in two methods is one tensor."""
    buffers = {(buffer.arena, buffer.offset): buffer for plan in plans.values() for buffer in plan.buffers}
    tensors = []
    for buffer in buffers.values():
        place = state_of(buffer.name)
        if place is None:
            continue
        tensors.append(_tensor(*place, buffer.dtype, buffer.shape, context))
    return tuple(sorted(tensors, key=lambda tensor: (tensor.layer or 0, tensor.role)))


def _tensor(layer: int, role: str, dtype: str, shape: tuple[int, ...], context: int | None) -> StateTensor:
    return StateTensor(
        name=state_name(layer, role),
        role=role,
        layer=layer,
        dtype=dtype,
        shape=shape,
        ring=context is not None and shape[_AXES.index("context")] < context,
        update="runtime",
    )
