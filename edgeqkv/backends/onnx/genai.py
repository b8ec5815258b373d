"""How onnxruntime-genai calls a graph, and how merged state passes for the keys and values that it knows.

That runtime (https://github.com/microsoft/onnxruntime-genai) holds two tensors a layer, a key and a value, whose
contents it never looks at. So neighbouring state tensors pose as one layer's pair: of merged layers, the first is the
key and the second the value of a layer 0 that has both, and the model is said to have half its layers. Where keys and
values differ, a pair is what its names say.

It gives the mask of all positions that are filled after the call, and one buffer as both past and present.
"""

from __future__ import annotations

from collections.abc import Iterable

import onnx_ir as ir

from edgeqkv.backends.onnx.graph import GraphBuilder
from edgeqkv.backends.onnx.signatures import GraphSignature
from edgeqkv.bundle.manifest import StateTensor
from edgeqkv.model.state import StateSpec

__all__ = ["GenaiSignature"]

Value = ir.Value

_PAIR = ("key", "value")


class GenaiSignature(GraphSignature):
    """Any number of tokens with a mask; the state's room is what the caller allocates (``context``).

    Args:
        graph, specs, context, state: as for `GraphSignature`; the caller allocates no more than the context.
    """

    def __init__(self, graph: GraphBuilder, specs: Iterable[StateSpec], *, context: int, state: str) -> None:
        super().__init__(graph, specs, context=context, state=state)
        self.tokens = graph.input("input_ids", "int64", [1, "tokens"], "tokens")
        self._mask = graph.input("attention_mask", "int64", [1, "end"], "mask")
        position_ids = graph.input("position_ids", "int64", [1, "tokens"], "positions")
        with graph.scope("positions"):
            self.positions = graph.op("Squeeze", position_ids, graph.constant([0]))
        self.last_row = graph.constant([-1])
        self._declared: list[StateTensor] = []

    @property
    def layers(self) -> int:
        """Pairs of state tensors: the layers that the runtime is told of."""
        return -(-len(self._declared) // 2)

    def filled(self) -> Value:
        # Its length alone: of a single sequence the runtime masks nothing.
        return self._graph.op("Shape", self._mask, start=1, end=2)

    def past(self, spec: StateSpec, *, both: bool = False) -> tuple[Value, StateTensor]:
        return self._past(spec.name, spec.role, spec.layer, (1, spec.kv_heads, spec.length, spec.dim))

    def finish(self, logits: Value, vocab_size: int) -> tuple[StateTensor, ...]:
        rows = self._graph.op("Unsqueeze", logits, self._graph.constant([0]))
        self._graph.output(rows, "logits", "fp32", [1, 1, vocab_size], "logits")
        if len(self._declared) % 2:
            # The last pair lacks its second half, which the runtime holds all the same.
            past, tensor = self._past("unused", "unused", None, self._declared[-1].shape)
            self.present(tensor, self._graph.op("Identity", past))
        for tensor, (value,) in self._presents:
            self._graph.output(value, str(tensor.output), tensor.dtype, _allocated(tensor), "state")
        return tuple(self._declared)

    def _past(self, name: str, role: str, layer: int | None, shape: tuple[int, ...]) -> tuple[Value, StateTensor]:
        pair, half = divmod(len(self._declared), 2)
        tensor = StateTensor(
            name=name,
            role=role,
            layer=layer,
            dtype=self.state,
            shape=shape,
            update="in_place",
            input=f"past_key_values.{pair}.{_PAIR[half]}",
            output=f"present.{pair}.{_PAIR[half]}",
        )
        self._declared.append(tensor)
        return self._graph.input(str(tensor.input), tensor.dtype, _allocated(tensor), "state"), tensor


def _allocated(tensor: StateTensor) -> list[int | str]:
    """A state tensor's shape in the graph, where the caller decides for how many positions there is room."""
    batch, heads, _, dim = tensor.shape
    return [batch, heads, "context", dim]
