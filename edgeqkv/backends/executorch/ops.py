"""The interpreters that are traced into an ExecuTorch program: the torch one, with its state in planned memory.

Activations are float32. Weights and state may be stored in fp16: a matrix product with fp16 weights and an
attention over an fp16 state are computed in fp16, for XNNPACK and the attention operator take operands of one type
alone; their results are widened again, so that norms and the residual stream keep float32. What multiplies a
quantized matrix is rounded to int8 (`edgeqkv.backends.executorch.quantized`).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Final

import torch
import torch.nn.functional as F

from edgeqkv.backends.executorch.layer_ops import ExecuTorchLayerOps
from edgeqkv.backends.executorch.quantized import quantized_rows
from edgeqkv.model.ops import Heads
from edgeqkv.model.state import HIGHEST, StateScales
from edgeqkv.model.weights import QuantizedWeight, Weight
from edgeqkv.reference.decoder import TorchOps

__all__ = ["OPS", "ExecuTorchOps", "PortableOps", "StockOps", "promise"]

Tensor = torch.Tensor

promise: Final[Callable[[bool], None]] = torch._check
"""Tell torch.export what it cannot know of a position; without it, shapes that depend on one cannot be traced."""


class ExecuTorchOps(ExecuTorchLayerOps, TorchOps):
    """What every form has in common.

    Args:
        position: where the first token stands, a symbol during tracing.
        parameter: the parameter that holds a weight, or the named part of a quantized one.
        state: the buffer ``[1, context, kv_heads, head_dim]`` of a layer and role (``kv``, ``k`` or ``v``).
        scales: how an int8 state rounds; None for a state in floating point.
    """

    def __init__(
        self,
        position: int,
        parameter: Callable[[Weight, str], Tensor],
        state: Callable[[int, str], Tensor],
        scales: StateScales | None,
    ) -> None:
        super().__init__(parameter)
        self.position = position
        self.scales = scales
        self._state = state

    def embed(self, tokens: Tensor, token_table: Weight, position_table: Weight) -> Tensor:
        # Not `len(tokens)`, which would fix the length that it is traced with.
        positions = self.position + torch.arange(tokens.shape[0])
        if isinstance(token_table, QuantizedWeight):
            rows = quantized_rows(tokens, token_table, partial(self._parameter, token_table))
        else:
            rows = F.embedding(tokens, self.values(token_table)).float()
        return rows + F.embedding(positions, self.values(position_table)).float()

    def logits(self, x: Tensor, table: Weight) -> Tensor:
        return self._product(x, table, None)

    def attention(self, layer: int, q: Tensor, k: Tensor, v: Tensor, heads: Heads) -> Tensor:
        keys, key_scale = self._appended(layer, "kv" if v is k else "k", k, heads)
        values, value_scale = (keys, key_scale) if v is k else self._appended(layer, "v", v, heads)
        queries = _scaled(q, key_scale).view(1, -1, heads.query, heads.dim).to(keys.dtype)
        mixed = self._attend(queries, keys, values).reshape(q.shape[0], -1).float()
        return _scaled(mixed, value_scale)

    def _appended(self, layer: int, role: str, rows: Tensor, heads: Heads) -> tuple[Tensor, float | None]:
        """Write a step's rows into the state; what is to be attended to ``[1, T, KV, D]``, and its scale if it has one.

        The codes of an int8 state are widened a layer at a time, as far as it is filled. Their scale is left to the
        queries and to what comes out, which are few.
        """
        state, steps = self._state(layer, role), rows.shape[0]
        rows = rows.view(1, steps, heads.kv, heads.dim)
        if self.scales is None:
            self._write(state, rows.to(state.dtype))
            return self._readable(state, steps), None
        scale = self.scales.of[f"{role}_{layer}"]
        self._write(state, (rows / scale).round().clamp(-HIGHEST - 1, HIGHEST).to(state.dtype))
        return self._filled(state, steps).float(), scale

    def _filled(self, state: Tensor, steps: int) -> Tensor:
        """The rows up to the last token of this call."""
        # Those past it were never written and may hold anything, NaN included, which a mask would let through
        # (0 × NaN): they are not read at all.
        stop = self.position + steps
        promise(stop <= state.shape[1])
        return state.narrow(1, 0, stop)

    def _readable(self, state: Tensor, steps: int) -> Tensor:
        """What `_attend` is to be given of a state in floating point."""
        return self._filled(state, steps)

    @abstractmethod
    def _write(self, state: Tensor, rows: Tensor) -> None:
        """Put ``rows [1, S, KV, D]`` into the state at the position."""

    @abstractmethod
    def _attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Causal attention of ``q [1, S, H, D]`` to ``k, v [1, T, KV, D]``; ``[1, S, H, D]``."""


class StockOps(ExecuTorchOps):
    """With the custom operators of ExecuTorch's LLM extension, which read and write the state in place."""

    def _readable(self, state: Tensor, steps: int) -> Tensor:
        return state  # the operator knows how far it is filled, and reads no further

    def _write(self, state: Tensor, rows: Tensor) -> None:
        torch.ops.llama.update_cache(rows, state, self.position)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        # Whatever k and v are, the operator takes a buffer for each: the same one twice where they are shared.
        result: Tensor = torch.ops.llama.custom_sdpa(q, k, v, self.position, None, 0.0, True)
        return result


class PortableOps(ExecuTorchOps):
    """With core ATen operators only."""

    def _write(self, state: Tensor, rows: Tensor) -> None:
        state.index_copy_(1, self.position + torch.arange(rows.shape[1]), rows)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        steps, heads, dim = q.shape[1:]
        total, kv_heads = k.shape[1:3]
        # Query heads of a group become rows of one matrix, so that the state is not repeated for each.
        queries = q.view(steps, kv_heads, heads // kv_heads, dim).permute(1, 2, 0, 3)
        queries = queries.reshape(kv_heads, heads // kv_heads * steps, dim)
        scores = torch.bmm(queries, k[0].permute(1, 2, 0)) * dim**-0.5
        visible = torch.arange(total) <= (self.position + torch.arange(steps))[:, None]
        future = torch.where(visible, 0.0, -torch.inf).to(scores.dtype)
        weights = F.softmax(scores.view(kv_heads, -1, steps, total) + future, dim=-1)
        mixed = torch.bmm(weights.view(kv_heads, -1, total), v[0].transpose(0, 1))
        return mixed.view(kv_heads, -1, steps, dim).permute(2, 0, 1, 3).reshape(1, steps, heads, dim)


def _scaled(x: Tensor, scale: float | None) -> Tensor:
    return x if scale is None else x * scale


OPS: Final[dict[str, type[ExecuTorchOps]]] = {"stock": StockOps, "static": StockOps, "portable": PortableOps}
"""Form → interpreter."""
