"""How a graph is called: the inputs and outputs at its two ends, whatever is computed between them.

`OwnSignature` is how edgeqkv's own forms are called; onnxruntime-genai has its own way (`edgeqkv.backends.onnx.genai`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable

import onnx_ir as ir

from edgeqkv.backends.onnx.graph import GraphBuilder
from edgeqkv.bundle.manifest import StateTensor
from edgeqkv.model.state import StateSpec

__all__ = ["GraphSignature", "OwnSignature"]

Value = ir.Value


class GraphSignature(ABC):
    """The ends of one graph.

    Attributes:
        specs: what the model stores, by layer and role.
        context: positions that the state has room for.
        state: precision in which the state is stored.
        tokens: the token ids, ``[1, T]``.
        positions: where they stand, ``[T]``.
        last_row: which of the T rows' logits are wanted, ``[1]``.
    """

    tokens: Value
    positions: Value
    last_row: Value

    def __init__(self, graph: GraphBuilder, specs: Iterable[StateSpec], *, context: int, state: str) -> None:
        self._graph = graph
        self.specs = {(spec.layer, spec.role): spec for spec in specs}
        self.context = context
        self.state = state
        self._presents: list[tuple[StateTensor, tuple[Value, ...]]] = []

    @abstractmethod
    def filled(self) -> Value:
        """Positions that are filled after this call, ``[1]``; asked for once, by graphs that need it."""

    @abstractmethod
    def past(self, spec: StateSpec, *, both: bool = False) -> tuple[Value, StateTensor]:
        """Declare a state tensor: the input that holds it, and its description.

        ``both``: attention makes it twice, as keys and as values. The tensor has an alias if it is to be given the
        second one too.
        """

    def present(self, tensor: StateTensor, *values: Value) -> None:
        """Give back a state tensor with this call's rows in it, and its aliases."""
        self._presents.append((tensor, values))

    @abstractmethod
    def finish(self, logits: Value, vocab_size: int) -> tuple[StateTensor, ...]:
        """Declare the outputs, ``logits [1, vocabulary]`` first, and return the state that the graph keeps."""


class OwnSignature(GraphSignature):
    """Says which row's logits it wants and how many positions are filled; state tensors are named after their role.

    Args:
        graph, specs, context, state: as for `GraphSignature`.
        tokens: tokens a call takes; None: any number.
    """

    def __init__(
        self, graph: GraphBuilder, specs: Iterable[StateSpec], *, context: int, state: str, tokens: int | None
    ) -> None:
        super().__init__(graph, specs, context=context, state=state)
        self.tokens = graph.input("input_ids", "int64", [1, tokens or "tokens"], "tokens")
        position_ids = graph.input("position_ids", "int64", [1, tokens or "tokens"], "positions")
        self.last_row = graph.input("logit_index", "int64", [1], "logit_index")
        with graph.scope("positions"):
            self.positions = graph.op("Squeeze", position_ids, graph.constant([0]))

    def filled(self) -> Value:
        return self._graph.input("kv_len", "int64", [1], "length")

    def past(self, spec: StateSpec, *, both: bool = False) -> tuple[Value, StateTensor]:
        tensor = StateTensor(
            name=spec.name,
            role=spec.role,
            layer=spec.layer,
            dtype=self.state,
            shape=(1, spec.kv_heads, spec.length, spec.dim),
            ring=spec.length < self.context,
            update="in_place",
            input=f"past_{spec.name}",
            output=f"present_{spec.name}",
            aliases=(f"present_{spec.name}_as_values",) if both else (),
        )
        return self._graph.input(str(tensor.input), tensor.dtype, tensor.shape, "state"), tensor

    def finish(self, logits: Value, vocab_size: int) -> tuple[StateTensor, ...]:
        self._graph.output(logits, "logits", "fp32", [1, vocab_size], "logits")
        for tensor, values in self._presents:
            for value, name in zip(values, (str(tensor.output), *tensor.aliases), strict=True):
                self._graph.output(value, name, tensor.dtype, tensor.shape, "state")
        return tuple(tensor for tensor, _ in self._presents)
