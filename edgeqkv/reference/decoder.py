"""The torch interpreter: the reference that every other backend is compared with.

Two ways to read `DecoderOps.attention` in torch, and everything else once:

- `sequence_logits` has no state at all. It computes a whole sequence at once, as the model was trained, and so
  cannot share a mistake with anything that keeps a state. It touches each weight once and gives its pages back,
  which makes it possible to check a model that fills most of the memory.
- `TorchSession` keeps a state, chunk by chunk and token by token, as the exported artifacts do.

Values are ``[S, C]`` in float32.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from edgeqkv.model.architectures.decoder import decode
from edgeqkv.model.layers import Linear, Norm
from edgeqkv.model.model import Model
from edgeqkv.model.ops import DecoderOps, Heads, LayerOps
from edgeqkv.model.state import StateScales
from edgeqkv.model.weights import Weight
from edgeqkv.run.session import Session

__all__ = ["SequenceOps", "TorchLayerOps", "TorchOps", "TorchSession", "attend", "sequence_logits"]

Tensor = torch.Tensor

_QUERY_BLOCK = 256  # rows of the score matrix made at a time: bounds its memory at long contexts


class TorchLayerOps(LayerOps[Tensor]):
    """The words of every model. Weights are what `values` says; shapes are ``[…, C]``."""

    def values(self, weight: Weight) -> Tensor:
        """A weight's numbers in float32."""
        return weight.values()

    def layer_norm(self, x: Tensor, norm: Norm) -> Tensor:
        return F.layer_norm(x, (x.shape[-1],), self.values(norm.scale), self.values(norm.bias), norm.eps)

    def linear(self, x: Tensor, linear: Linear) -> Tensor:
        return F.linear(x, self.values(linear.weight), self.values(linear.bias) if linear.bias else None)

    def gelu(self, x: Tensor) -> Tensor:
        return F.gelu(x)

    def add(self, x: Tensor, y: Tensor) -> Tensor:
        return x + y


class TorchOps(TorchLayerOps, DecoderOps[Tensor]):
    """What a decoder reads the same with and without a state.

    ``scales`` say how the state that is to be compared with rounds keys and values, if it does.
    """

    position = 0
    scales: StateScales | None = None

    def stored(self, name: str, rows: Tensor) -> Tensor:
        """What a state tensor gives back of rows that were stored in it."""
        return rows if self.scales is None else self.scales.rounded(name, rows)

    def embed(self, tokens: Tensor, token_table: Weight, position_table: Weight) -> Tensor:
        positions = torch.arange(self.position, self.position + tokens.shape[0])
        return F.embedding(tokens, self.values(token_table)) + self.values(position_table)[positions]

    def attention(self, layer: int, q: Tensor, k: Tensor, v: Tensor, heads: Heads) -> Tensor:
        raise NotImplementedError

    def last(self, x: Tensor) -> Tensor:
        return x[-1:]

    def logits(self, x: Tensor, table: Weight) -> Tensor:
        return F.linear(x, self.values(table))


class _StatefulOps(TorchOps):
    """Appends keys and values to a state a layer, ``[context, kv_heads, head_dim]``: one tensor if k is v."""

    def __init__(self, context: int, scales: StateScales | None) -> None:
        self.context = context
        self.scales = scales
        self.state: dict[str, Tensor] = {}

    def attention(self, layer: int, q: Tensor, k: Tensor, v: Tensor, heads: Heads) -> Tensor:
        keys = self._appended(f"{'kv' if v is k else 'k'}_{layer}", k, heads)
        values = keys if v is k else self._appended(f"v_{layer}", v, heads)
        return attend(q, keys, values, heads)

    def _appended(self, name: str, rows: Tensor, heads: Heads) -> Tensor:
        if name not in self.state:
            self.state[name] = torch.zeros(self.context, heads.kv, heads.dim)
        state, stop = self.state[name], self.position + len(rows)
        state[self.position : stop] = self.stored(name, rows).view(-1, heads.kv, heads.dim)
        return state[:stop]


class SequenceOps(TorchOps):
    """Computes a whole sequence without a state, looking at each weight once.

    ``rows`` are the positions whose logits are wanted.
    """

    def __init__(self, rows: Sequence[int], scales: StateScales | None = None) -> None:
        self.rows = list(rows)
        self.scales = scales
        self._used: list[Weight] = []

    def values(self, weight: Weight) -> Tensor:
        # The weight before this one has been used up by now, so that one or two are in memory at a time.
        while len(self._used) > 1:
            self._used.pop(0).release_pages()
        self._used.append(weight)
        return super().values(weight)

    def attention(self, layer: int, q: Tensor, k: Tensor, v: Tensor, heads: Heads) -> Tensor:
        keys = self.stored(f"{'kv' if v is k else 'k'}_{layer}", k)
        values = keys if v is k else self.stored(f"v_{layer}", v)
        return attend(q, keys.view(-1, heads.kv, heads.dim), values.view(-1, heads.kv, heads.dim), heads)

    def last(self, x: Tensor) -> Tensor:
        return x[self.rows]

    def release(self) -> None:
        while self._used:
            self._used.pop().release_pages()


def attend(q: Tensor, k: Tensor, v: Tensor, heads: Heads) -> Tensor:
    """Causal attention of ``q [S, H·D]``, whose last row stands at the last of ``k, v [T, KV, D]``; ``[S, H·D]``."""
    steps, total = len(q), len(k)
    q, k, v = q.view(steps, heads.query, heads.dim).transpose(0, 1), k.transpose(0, 1), v.transpose(0, 1)
    blocks = []
    for start in range(0, steps, _QUERY_BLOCK):
        stop = min(start + _QUERY_BLOCK, steps)
        visible = total - steps + stop
        mask = torch.ones(stop - start, visible, dtype=torch.bool).tril(total - steps + start)
        block = F.scaled_dot_product_attention(
            q[None, :, start:stop],
            k[None, :, :visible],
            v[None, :, :visible],
            attn_mask=mask,
            enable_gqa=True,
        )
        blocks.append(block[0].transpose(0, 1).flatten(1))
    return torch.cat(blocks)


@torch.inference_mode()
def sequence_logits(
    model: Model, tokens: Sequence[int] | npt.NDArray[np.integer], rows: Sequence[int] | None = None
) -> npt.NDArray[np.float32]:
    """Logits of a whole sequence, computed at once and without a state.

    Args:
        model: the model; its weights' precision counts (`Weight.values`), and so does an int8 state's rounding.
        tokens: ``[T]`` token ids, at most as many as the model has positions.
        rows: the positions whose logits are wanted; all by default.

    Returns:
        ``[len(rows), vocab]``.
    """
    ops = SequenceOps(range(len(tokens)) if rows is None else rows, model.state_scales)
    ids = torch.as_tensor(np.asarray(tokens, dtype=np.int64))
    logits = decode(ops, model.network, ids)
    ops.release()
    return logits.numpy()


class TorchSession(Session):
    """The model itself, run with a state, as its exports are."""

    def __init__(self, model: Model, *, context: int | None = None, chunk: int = 128) -> None:
        capacity = model.config.positions if context is None else context
        self._model = model.with_context(capacity)
        self._ops = _StatefulOps(capacity, model.state_scales)
        super().__init__(
            capacity=capacity,
            chunk=min(chunk, capacity),
            vocab_size=model.config.vocab_size,
            state_bytes=model.state_bytes(capacity, torch.float32.itemsize),
        )

    @torch.inference_mode()
    def _step(self, ids: npt.NDArray[np.int64], position: int) -> npt.NDArray[np.float32]:
        self._ops.position = position
        return decode(self._ops, self._model.network, torch.from_numpy(ids))[0].numpy()
