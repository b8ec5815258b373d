"""A target in one file: torch, whose caller keeps the state and writes the new rows to it.

It stands for whatever target somebody adds: it is registered by one line (`register`), and no stage knows its name.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy.typing as npt
import torch

from edgeqkv.backends import REGISTRY
from edgeqkv.backends.ends import input_spec, output_spec
from edgeqkv.backends.target import Form, SelfContained, TargetSpec
from edgeqkv.bundle.manifest import Artifact, Graph, StateTensor, TensorSpec
from edgeqkv.errors import BundleError
from edgeqkv.model.layers import Attention
from edgeqkv.model.model import Model
from edgeqkv.model.schemes import INT8, Palette, Scheme
from edgeqkv.progress import Progress
from edgeqkv.reference.ops import TorchOps

FILE = "toy.pt"


def register(registry: dict[str, str] = REGISTRY) -> None:
    registry["toy"] = "toy_target"


class ToyOps(TorchOps):
    """Reads the state that it is given, and notes the rows that belong into it."""

    rows = (-1,)

    def __init__(self, state: Mapping[str, torch.Tensor], position: int) -> None:
        self.position = position
        self.state = state
        self.new: dict[str, torch.Tensor] = {}

    def remembered(self, layer: int, role: str, rows: torch.Tensor, attention: Attention) -> tuple[torch.Tensor, int]:
        name = f"{role}_{layer}"
        self.new[name] = rows
        return torch.cat([self.state[name][: self.position], rows]), 0


class ToyRunner:
    precision = "fp32"
    state_bytes = 0

    def __init__(self, directory: Path, artifact: Artifact) -> None:
        try:
            self.model: Model = torch.load(directory / FILE, weights_only=False)
        except Exception as error:
            raise BundleError(f"{FILE} cannot be read: {error}") from error
        self.artifact = artifact

    @torch.inference_mode()
    def call(self, graph: Graph, inputs: Mapping[str, npt.NDArray[Any]]) -> Mapping[str, npt.NDArray[Any]]:
        if not self.artifact.causal:
            (batch,) = inputs.values()
            outputs = self.model.network.outputs(TorchOps(), torch.from_numpy(batch))
            return {"logits": outputs.reshape(len(batch), *self.model.config.output_shape).numpy()}
        state = {tensor.name: torch.from_numpy(inputs[str(tensor.input)]) for tensor in self.artifact.state_tensors}
        ops = ToyOps(state, int(inputs["start"][0]))
        logits = self.model.network.outputs(ops, torch.from_numpy(inputs["tokens"]))
        return {"logits": logits.numpy(), **{f"new_{name}": rows.numpy() for name, rows in ops.new.items()}}

    def close(self, graph: Graph) -> None:
        """Nothing is held for a graph."""


class ToyTarget(SelfContained):
    name = "toy"
    title = "Toy"
    packages = ("torch",)
    extra = "torch"
    forms = (Form("plain", "the only one", encoder=True),)
    schemes: ClassVar[Mapping[str, Scheme | Palette | None]] = {"fp32": None, "int8": INT8}
    states = ("fp32",)
    takes_images = False
    engines = ("toy",)
    proof_engine = "toy"

    def export(self, model: Model, directory: Path, spec: TargetSpec, on_progress: Progress) -> Artifact:
        on_progress(f"writing {FILE}", None)
        torch.save(model, directory / FILE)
        states = ()
        if model.causal:
            states = tuple(
                StateTensor(
                    name=each.name,
                    role=each.role,
                    layer=each.layer,
                    dtype="fp32",
                    shape=(each.length, each.kv_heads, each.dim),
                    update="rows",
                    input=f"past_{each.name}",
                    output=f"new_{each.name}",
                )
                for each in model.state(int(spec.context or 0))
            )
            graph = Graph(
                name="main",
                file=FILE,
                tokens=int(spec.chunk or 1),
                fixed=False,
                inputs=(
                    TensorSpec(name="tokens", dtype="int64", shape=("tokens",), role="tokens"),
                    TensorSpec(name="start", dtype="int64", shape=(1,), role="start"),
                    *(TensorSpec(name=f"past_{s.name}", dtype="fp32", shape=s.shape, role="state") for s in states),
                ),
                outputs=(
                    TensorSpec(name="logits", dtype="fp32", shape=(1, model.config.vocab_size), role="logits"),
                    *(
                        TensorSpec(name=f"new_{s.name}", dtype="fp32", shape=("tokens", *s.shape[1:]), role="state")
                        for s in states
                    ),
                ),
            )
        else:
            ends = input_spec(model.config, spec.batch, "int64"), output_spec(model.config, spec.batch)
            graph = Graph(name="main", file=FILE, inputs=ends[:1], outputs=ends[1:])
        return Artifact(
            target=self.name,
            form=spec.form,
            weights=spec.weights,
            state=spec.state,
            context=spec.context,
            chunk=spec.chunk,
            batch=spec.batch,
            vocab_size=model.config.vocab_size,
            axes=("context", "kv_heads", "head_dim") if states else (),
            graphs=(graph,),
            state_tensors=states,
        )

    def open(self, directory: Path, artifact: Artifact, engine: str) -> ToyRunner:
        return ToyRunner(directory, artifact)


TARGET = ToyTarget()
