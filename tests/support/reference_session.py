"""A session on a model that was not exported: the reference, run as its exports are."""

from __future__ import annotations

from typing import Any

from edgeqkv.bundle.manifest import Artifact, Graph, TensorSpec
from edgeqkv.model.model import Model
from edgeqkv.reference.runner import ReferenceRunner
from edgeqkv.run.session import Session

__all__ = ["Nothing", "TorchSession", "artifact_of"]


class Nothing:
    """A runner for sessions that do their steps themselves."""

    precision = "fp32"
    state_bytes = 0

    def call(self, graph: Graph, inputs: Any) -> Any:
        raise NotImplementedError

    def close(self, graph: Graph) -> None:
        raise NotImplementedError


def artifact_of(*, context: int, chunk: int, vocab_size: int, **rest: Any) -> Artifact:
    """A description of something that is called as the reference is."""
    graph = Graph(
        name="reference",
        file="none",
        tokens=chunk,
        fixed=False,
        inputs=(
            TensorSpec(name="tokens", dtype="int64", shape=(1, "tokens"), role="tokens"),
            TensorSpec(name="start", dtype="int64", shape=(1,), role="start"),
        ),
        outputs=(TensorSpec(name="logits", dtype="fp32", shape=(1, vocab_size), role="logits"),),
    )
    names = {"target": "reference", "form": "reference", "weights": "fp32", "state": "fp32"} | rest
    return Artifact(**names, context=context, chunk=chunk, vocab_size=vocab_size, graphs=(graph,))


class TorchSession(Session):
    def __init__(self, model: Model, *, context: int | None = None, chunk: int = 128) -> None:
        capacity = model.config.positions if context is None else context
        artifact = artifact_of(context=capacity, chunk=min(chunk, capacity), vocab_size=model.config.vocab_size)
        super().__init__(artifact, ReferenceRunner(model, capacity))
