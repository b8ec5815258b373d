"""Writing a model for Ethos-U85: one program with a method for prefill and one for decode, and their TOSA graphs."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import torch

from edgeqkv.backends.ethos.lowering import Chip, Compiler, Ends, Observed
from edgeqkv.backends.ethos.module import Step
from edgeqkv.backends.executorch._compat import lowering_quickly
from edgeqkv.backends.executorch.quiet import third_party_notices_silenced
from edgeqkv.backends.features import check_features
from edgeqkv.backends.target import TargetSpec
from edgeqkv.bundle.manifest import Artifact, Compiled, Graph, StateTensor, TensorSpec
from edgeqkv.disk.workplace import scratch
from edgeqkv.errors import UnsupportedError
from edgeqkv.extras import installed_version
from edgeqkv.model.model import Model
from edgeqkv.model.state import StateSpec
from edgeqkv.progress import Progress
from edgeqkv.reference.observing import sequences_of

__all__ = ["export"]

_FEATURES: Final = frozenset({"layers with different heads", "layers that share differently"})

_SEQUENCES: Final = 8
_CALLS: Final = 12
"""A sequence's calls that are watched, spread over its positions; bounds the time, of which each takes a tenth of a
second for a small model."""


def export(model: Model, directory: Path, spec: TargetSpec, on_progress: Progress) -> Artifact:
    """Write the program and its graphs.

    Raises:
        UnsupportedError: the graphs cannot hold the model, or an operation would be left to the CPU.
    """
    check_features(model.network, "Ethos-U85", _FEATURES)
    if not model.causal:
        raise UnsupportedError("Ethos-U85 exports are of language models; export an encoder --target hexagon or onnx")
    context, chip = int(spec.context or 1), Chip(str(spec.soc))
    with scratch() as folder, third_party_notices_silenced(), torch.no_grad(), lowering_quickly():
        start = time.perf_counter()
        programs = {}
        for name, tokens in _plan(spec):
            on_progress(f"observing activations of {name}", None)
            programs[name] = _rounded(model, context, tokens, spec, chip, folder)
        on_progress(f"compiling for Ethos-U85 with {chip.macs} MACs", None)
        compiler = Compiler(chip, folder)
        edge, ends = compiler.compile(programs)
        file = f"ethos_u85_{chip.macs}.pte"
        (directory / file).write_bytes(edge.to_executorch().buffer)
        for name in programs:
            (directory / _graph_file(name)).write_bytes(compiler.graph(name))
        figures = {name: compiler.figures(name) for name in programs}
        system = compiler.system("decode")
    seconds = round(time.perf_counter() - start, 2)
    compiled = Compiled(
        soc=str(spec.soc),
        compiler=f"ethos-u-vela {installed_version('ethos-u-vela')}",
        graphs=dict.fromkeys(programs, file),
        binary=file,
        binary_bytes=(directory / file).stat().st_size,
        fast_memory_bytes=max(1, *(each.sram_bytes for each in figures.values())),
        spill_bytes={name: each.dram_bytes for name, each in figures.items()},
        seconds={"all": seconds},
        figures=figures,
        system=system,
    )
    assert model.state_scales is not None, "the state is in int8"
    return Artifact(
        target="ethos-u85",
        form=spec.form,
        weights=spec.weights,
        state=spec.state,
        context=spec.context,
        chunk=spec.chunk,
        vocab_size=model.config.vocab_size,
        axes=("batch", "kv_heads", "context", "head_dim"),
        graphs=tuple(_graph(model, context, name, tokens) for name, tokens in _plan(spec)),
        state_tensors=tuple(_tensor(each) for each in model.state(context)),
        compiled=compiled,
        versions={name: installed_version(name) or "" for name in ("torch", "executorch", "ethos-u-vela")},
        details={
            "soc": spec.soc,
            "activations": "int8",
            "state_scales": dict(model.state_scales.of),
            "ends": {name: _ends(found) for name, found in ends.items()},
        },
    )


def _plan(spec: TargetSpec) -> Iterator[tuple[str, int]]:
    """Name and tokens of every graph."""
    if (chunk := spec.chunk or 1) > 1:
        yield "prefill", chunk
    yield "decode", 1


def _rounded(
    model: Model, context: int, tokens: int, spec: TargetSpec, chip: Chip, folder: Path
) -> torch.export.ExportedProgram:
    assert spec.examples is not None, "the target says that it needs them"
    assert model.state_scales is not None, "the state is in int8"
    step = Step(model, context, tokens).eval()
    observed = Observed(step, step.example(), chip, folder)
    for inputs in _calls(model, context, tokens, spec.examples):
        observed(*inputs)
    first = len(step.example()) - len(step.specs)
    for number, each in enumerate(step.specs, first):
        observed.fix(number, model.state_scales.of[each.name])
    return observed.rounded()


def _calls(
    model: Model, context: int, tokens: int, examples: npt.NDArray[np.int64]
) -> Iterator[tuple[torch.Tensor, ...]]:
    """Inputs of calls all over the context, the first and the last that there are among them. Whatever stands in the
    state behind a call is as it was before, which is nothing."""
    sequences = sequences_of(examples, context)
    chosen = [sequences[index] for index in np.unique(np.linspace(0, len(sequences) - 1, _SEQUENCES).astype(int))]
    for sequence in chosen:
        whole = Step(model, context, len(sequence)).eval()
        ids = torch.from_numpy(np.asarray(sequence, np.int32))[None]
        rows = whole(ids, torch.arange(len(sequence), dtype=torch.int32)[None], *whole.example()[2:])[1:]
        for start in np.unique(np.linspace(0, len(sequence) - tokens, _CALLS).astype(int)):
            piece = slice(int(start), int(start) + tokens)
            past = [torch.nn.functional.pad(each[:, :, :start], (0, 0, 0, context - int(start))) for each in rows]
            index = (torch.tensor([tokens - 1], dtype=torch.int32),) if tokens > 1 else ()
            yield ids[:, piece], torch.arange(piece.start, piece.stop, dtype=torch.int32)[None], *index, *past


def _graph_file(name: str) -> str:
    return f"ethos_{name}.tosa"


def _graph(model: Model, context: int, name: str, tokens: int) -> Graph:
    state = [_tensor(each) for each in model.state(context)]
    index = [TensorSpec(name="logit_index", dtype="int32", shape=(1,), role="logit_index")] if tokens > 1 else []
    return Graph(
        name=name,
        file=_graph_file(name),
        tokens=tokens,
        inputs=(
            TensorSpec(name="input_ids", dtype="int32", shape=(1, tokens), role="tokens"),
            TensorSpec(name="position_ids", dtype="int32", shape=(1, tokens), role="positions"),
            *index,
            *(TensorSpec(name=str(each.input), dtype=each.dtype, shape=each.shape, role="state") for each in state),
        ),
        outputs=(
            TensorSpec(name="logits", dtype="fp32", shape=(1, int(model.config.vocab_size or 1)), role="logits"),
            *(
                TensorSpec(
                    name=str(each.output),
                    dtype=each.dtype,
                    shape=(*each.shape[:2], tokens, each.shape[3]),
                    role="state",
                )
                for each in state
            ),
        ),
    )


def _tensor(spec: StateSpec) -> StateTensor:
    return StateTensor(
        name=spec.name,
        role=spec.role,
        layer=spec.layer,
        dtype="int8",
        shape=(1, spec.kv_heads, spec.length, spec.dim),
        update="rows",
        input=f"past_{spec.name}",
        output=f"new_{spec.name}",
    )


def _ends(found: Ends) -> dict[str, object]:
    return {"inputs": found.inputs, "outputs": found.outputs, "scale": found.scale, "zero": found.zero}
