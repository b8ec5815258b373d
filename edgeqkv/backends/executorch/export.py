"""Writing a model as ``model.pte``."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import torch

from edgeqkv.backends import Request
from edgeqkv.backends.executorch.module import DecoderModule, WeightsModule, state_of
from edgeqkv.backends.executorch.program import MemoryPlan, ProgramFile
from edgeqkv.backends.executorch.quiet import third_party_notices_silenced
from edgeqkv.bundle.manifest import Artifact, Graph, StateTensor, TensorSpec
from edgeqkv.extras import installed_version
from edgeqkv.model.model import Model
from edgeqkv.progress import Report

with third_party_notices_silenced():
    from executorch.extension.llm.custom_ops import custom_ops  # noqa: F401  registers torch.ops.llama

    from edgeqkv.backends.executorch.lowering import lower, write
    from edgeqkv.backends.executorch.tied import store_once

__all__ = ["FILE", "PACKAGES", "Serialized", "export", "planned_memory"]

FILE: Final = "model.pte"
PACKAGES: Final = ("torch", "executorch", "torchao")


def export(model: Model, directory: Path, request: Request, report: Report) -> Artifact:
    """Write ``model.pte`` into ``directory`` and describe it."""
    module = DecoderModule(model, request).eval()
    lengths = _methods(request)
    with third_party_notices_silenced(), torch.no_grad():
        programs = {}
        for method, tokens in lengths.items():
            report(f"trace {method}", None)
            programs[method] = _trace(module, tokens, dynamic=request.form != "static" and tokens > 1)
        report("lower to XNNPACK", 0.0)
        program, delegation = lower(programs, _metadata(model, request), Serialized(module, len(lengths), report))
        report("lower to XNNPACK", 1.0)
        report("write the program", None)
        write(program, directory / FILE)
    saved = store_once(directory / FILE)
    file = ProgramFile(directory / FILE)
    return _describe(model, request, lengths, file, {"delegation": delegation, "shared_bytes": saved, **_scales(model)})


def _methods(request: Request) -> dict[str, int]:
    """Method name → the tokens that it is traced with: the most that it takes."""
    if request.form == "static":
        return {"prefill": request.chunk, "decode": 1}
    # torch.export reasons as if a dynamic length were at least 2. Of two positions that would leave the first
    # alone to start at, and it would be built in as a constant: there, tokens go one by one.
    return {"forward": request.chunk if request.context > 2 else 1}


def _trace(module: DecoderModule, tokens: int, *, dynamic: bool) -> torch.export.ExportedProgram:
    example = (torch.zeros(1, tokens, dtype=torch.long), torch.zeros(1, dtype=torch.long))
    shapes = ({1: torch.export.Dim("tokens", min=1, max=tokens)} if dynamic else None, None)
    return torch.export.export(module, example, dynamic_shapes=shapes, strict=False)


class Serialized:
    """Follows the weights through the lowering: reports, and gives their memory back."""

    def __init__(self, module: WeightsModule, methods: int, report: Report) -> None:
        self._weights = module.weights
        self._report = report
        self._done = 0
        self._total = methods * sum(weight.tensor.numel() for weight in module.weights.values())

    def __call__(self, names: list[str]) -> None:
        # The rest are parts of quantized matrices beside their codes.
        for name in self._weights.keys() & set(names):
            weight = self._weights[name]
            weight.release_pages()
            self._done += weight.tensor.numel()
        self._report("lower to XNNPACK", min(1.0, self._done / self._total))


def _metadata(model: Model, request: Request) -> dict[str, int | bool | list[int]]:
    """What the runners ask of a file. ``get_max_seq_len`` is the prefill chunk, not the context."""
    metadata: dict[str, int | bool | list[int]] = {
        "get_max_seq_len": max(_methods(request).values()),
        "get_max_context_len": request.context,
        "get_vocab_size": model.config.vocab_size,
        "get_n_layers": model.config.layers,
        "use_kv_cache": True,
        "use_sdpa_with_kv_cache": request.form != "portable",
        "enable_dynamic_shape": request.form != "static",
    }
    if request.bos_id is not None:
        metadata["get_bos_id"] = request.bos_id
    if request.eos_ids:
        metadata["get_eos_ids"] = list(request.eos_ids)
    return metadata


def _describe(
    model: Model, request: Request, methods: dict[str, int], file: ProgramFile, details: dict[str, Any]
) -> Artifact:
    plans = file.plans()
    fixed = request.form == "static"
    versions = {name: installed_version(name) for name in PACKAGES}
    return Artifact(
        target="executorch",
        form=request.form,
        weights=request.weights,
        state=request.state,
        context=request.context,
        chunk=max(methods.values()),
        vocab_size=model.config.vocab_size,
        axes=("batch", "context", "kv_heads", "head_dim"),
        graphs=tuple(
            Graph(
                name=method,
                file=FILE,
                tokens=tokens,
                fixed=fixed or tokens == 1,
                inputs=(
                    TensorSpec(name="tokens", dtype="int64", shape=(1, tokens if fixed or tokens == 1 else "tokens")),
                    TensorSpec(name="input_pos", dtype="int64", shape=(1,)),
                ),
                outputs=(TensorSpec(name="logits", dtype="fp32", shape=(1, model.config.vocab_size)),),
            )
            for method, tokens in methods.items()
        ),
        state_tensors=_state(plans),
        versions={name: version for name, version in versions.items() if version is not None},
        details={
            **details,
            "file_bytes": file.path.stat().st_size,
            "planned_memory_bytes": planned_memory(plans),
            "planned_memory": {name: sum(plan.arenas.values()) for name, plan in plans.items()},
        },
    )


def _scales(model: Model) -> dict[str, dict[str, float]]:
    return {} if model.state_scales is None else {"state_scales": dict(model.state_scales.of)}


def planned_memory(plans: dict[str, MemoryPlan]) -> int:
    """Bytes that the runtime allocates when every method is loaded: the state once, the rest for each."""
    state = {buffer.arena for plan in plans.values() for buffer in plan.buffers} if len(plans) > 1 else set()
    own = sum(size for plan in plans.values() for arena, size in plan.arenas.items() if arena not in state)
    return own + sum(max(plan.arenas.get(arena, 0) for plan in plans.values()) for arena in state)


def _state(plans: dict[str, MemoryPlan]) -> tuple[StateTensor, ...]:
    """The state as the memory plan has it; what lies in the same place in two methods is one tensor."""
    buffers = {(buffer.arena, buffer.offset): buffer for plan in plans.values() for buffer in plan.buffers}
    tensors = []
    for buffer in buffers.values():
        place = state_of(buffer.name)
        if place is None:
            continue
        layer, role = place
        tensors.append(StateTensor(name=buffer.name, role=role, layer=layer, dtype=buffer.dtype, shape=buffer.shape))
    return tuple(sorted(tensors, key=lambda tensor: (tensor.layer or 0, tensor.role)))
