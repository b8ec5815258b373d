"""The torch interpreter: what every other interpreter is compared with.

Values are ``[…, S, C]`` in float32, with any batch before. Of the state there are two readings, and everything else is
here once:

- `TorchOps` has none. It computes whole sequences at once, as the model was trained, and so cannot share a mistake with
  anything that keeps a state. `SequenceOps` touches each weight once and gives its pages back, which makes it possible
  to check a model that fills most of the memory.
- `StatefulOps` keeps one, chunk by chunk and token by token, as the exported artifacts do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F

from edgeqkv.model.layers import Activation, Attention, Linear, Norm, Rope
from edgeqkv.model.ops import Ops
from edgeqkv.model.state import StateScales, StateSpec
from edgeqkv.model.weights import Weight
from edgeqkv.reference.attention import attend, rotated, turns

__all__ = ["SequenceOps", "StatefulOps", "TorchOps"]

Tensor = torch.Tensor


class TorchOps(Ops[Tensor]):
    """Computes whole inputs at once, one or a batch of them. Weights are what `values` says.

    Attributes:
        position: where the first token stands.
        rows: the tokens whose logits are wanted of a decoder; None: all.
        scales: how the state that is to be compared with rounds keys and values, if it does.
    """

    position: int = 0
    rows: Sequence[int] | None = None
    scales: StateScales | None = None

    def values(self, weight: Weight) -> Tensor:
        """A weight's numbers in float32."""
        return weight.values()

    def embedding(self, ids: Tensor, table: Weight) -> Tensor:
        return F.embedding(ids, self.values(table))

    def add_positions(self, x: Tensor, table: Weight) -> Tensor:
        positions = torch.arange(self.position, self.position + x.shape[-2])
        return x + F.embedding(positions, self.values(table))

    def norm(self, x: Tensor, norm: Norm) -> Tensor:
        scale = None if norm.scale is None else self.values(norm.scale)
        if scale is not None and norm.offset:
            scale = scale + norm.offset
        bias = None if norm.bias is None else self.values(norm.bias)
        if norm.kind == "layer":
            return F.layer_norm(x, (x.shape[-1],), scale, bias, norm.eps)
        normed = F.rms_norm(x, (x.shape[-1],), scale, norm.eps)
        return normed if bias is None else normed + bias

    def linear(self, x: Tensor, linear: Linear) -> Tensor:
        return F.linear(x, self.values(linear.weight), self.values(linear.bias) if linear.bias else None)

    def activation(self, x: Tensor, kind: Activation) -> Tensor:
        match kind:
            case "gelu":
                return F.gelu(x)
            case "gelu_tanh":
                return F.gelu(x, approximate="tanh")
            case "silu":
                return F.silu(x)
            case "relu":
                return F.relu(x)

    def add(self, x: Tensor, y: Tensor) -> Tensor:
        return x + y

    def multiply(self, x: Tensor, y: Tensor) -> Tensor:
        return x * y

    def scale(self, x: Tensor, factor: float) -> Tensor:
        return x * factor

    def softcap(self, x: Tensor, cap: float) -> Tensor:
        return (x / cap).tanh() * cap

    def attention(self, layer: int, q: Tensor, k: Tensor, v: Tensor, attention: Attention) -> Tensor:
        heads = attention.heads
        layer = layer if attention.source is None else attention.source
        queries = self._placed(_split(q, heads.query), attention.q_norm, attention.rope, self.position)
        new_keys, new_values = _split(k, heads.kv), _split(v, heads.kv)
        if v is k:
            values, start = self.remembered(layer, "kv", new_values, attention)
            keys = self._placed(values, attention.k_norm, attention.rope, start)
        else:
            new_keys = self._placed(new_keys, attention.k_norm, attention.rope, self.position)
            keys, start = self.remembered(layer, "k", new_keys, attention)
            values, _ = self.remembered(layer, "v", new_values, attention)
        bias = None
        if attention.term is not None:
            end = start + keys.shape[-3]
            bias = self.values(attention.term.bias)[end - queries.shape[-3] : end, start:end]
        mixed = attend(queries, keys, values, attention, bias)
        return self.part(mixed, heads.query, heads.dim, heads.dim - attention.value_dim, heads.dim)

    def placed(self, x: Tensor, heads: int, dim: int, norm: Norm | None, rope: Rope | None) -> Tensor:
        return self._placed(_split(x, heads), norm, rope, self.position).flatten(-2)

    def part(self, x: Tensor, heads: int, dim: int, start: int, stop: int) -> Tensor:
        return x if (start, stop) == (0, dim) else _split(x, heads)[..., start:stop].flatten(-2)

    def join(self, parts: Sequence[Tensor], heads: int, dims: Sequence[int]) -> Tensor:
        return torch.cat([_split(each, heads) for each in parts], dim=-1).flatten(-2)

    def pad(self, x: Tensor, heads: int, dim: int, count: int) -> Tensor:
        return F.pad(_split(x, heads), (0, count)).flatten(-2)

    def remembered(self, layer: int, role: str, rows: Tensor, attention: Attention) -> tuple[Tensor, int]:
        """What a state tensor holds with these rows ``[…, S, KV, D]`` appended, and where the first of it stands."""
        return (self.kept(f"{role}_{layer}", rows) if attention.causal else rows), self.position

    def kept(self, name: str, rows: Tensor) -> Tensor:
        """What a state tensor gives back of rows that were stored in it."""
        return rows if self.scales is None else self.scales.rounded(name, rows)

    def patches(self, pixels: Tensor, size: int) -> Tensor:
        height, width = pixels.shape[2:]
        padded = F.pad(pixels, (0, -width % size, 0, -height % size))
        return F.unfold(padded, size, stride=size).transpose(1, 2)

    def prepend(self, x: Tensor, row: Weight) -> Tensor:
        return torch.cat([self.values(row).expand(len(x), 1, -1), x], dim=1)

    def first(self, x: Tensor) -> Tensor:
        return x[..., :1, :]

    def last(self, x: Tensor) -> Tensor:
        return x if self.rows is None else x[..., list(self.rows), :]

    def logits(self, x: Tensor, table: Weight) -> Tensor:
        return F.linear(x, self.values(table))

    def _placed(self, x: Tensor, norm: Norm | None, rope: Rope | None, start: int) -> Tensor:
        """Heads of queries or keys ``[…, S, heads, D]``, normalized and rotated; the first row stands at ``start``."""
        x = x if norm is None else self.norm(x, norm)
        if rope is None:
            return x
        # Not `arange` from start to end, which torch.export would have to know.
        return rotated(x, rope, *turns(rope, start + torch.arange(x.shape[-3])))


def _split(x: Tensor, heads: int) -> Tensor:
    return x.view(*x.shape[:-1], heads, -1)


class SequenceOps(TorchOps):
    """Computes a sequence, looking at each weight once. ``rows`` are the positions whose logits are wanted;
    ``on_layer`` is told of each layer's attention as it comes."""

    def __init__(
        self, rows: Sequence[int], scales: StateScales | None = None, on_layer: Callable[[int], None] | None = None
    ) -> None:
        self.rows = rows
        self.scales = scales
        self._on_layer = on_layer
        self._used: list[Weight] = []

    def values(self, weight: Weight) -> Tensor:
        # The weight before this one has been used up by now, so that one or two are in memory at a time.
        while len(self._used) > 1:
            self._used.pop(0).release_pages()
        self._used.append(weight)
        return super().values(weight)

    def attention(self, layer: int, q: Tensor, k: Tensor, v: Tensor, attention: Attention) -> Tensor:
        if self._on_layer is not None:
            self._on_layer(layer)
        return super().attention(layer, q, k, v, attention)

    def release(self) -> None:
        """Give back what was looked at last."""
        while self._used:
            self._used.pop().release_pages()


class StatefulOps(TorchOps):
    """Appends to a state, ``[length, kv_heads, head_dim]`` each: what the model says it stores.

    A tensor shorter than the context, a layer's window, is a ring: the row of position p is at p modulo its length.
    """

    rows = (-1,)

    def __init__(self, specs: Sequence[StateSpec], scales: StateScales | None = None) -> None:
        self.scales = scales
        self.state = {spec.name: torch.zeros(spec.length, spec.kv_heads, spec.dim) for spec in specs}
        self._seen: dict[str, tuple[Tensor, int]] = {}

    def remembered(self, layer: int, role: str, rows: Tensor, attention: Attention) -> tuple[Tensor, int]:
        name = f"{role}_{layer}"
        if attention.source is None:
            self._seen[name] = self._appended(name, rows, attention)
        return self._seen[name]

    def _appended(self, name: str, rows: Tensor, attention: Attention) -> tuple[Tensor, int]:
        state, stop = self.state[name], self.position + len(rows)
        new = self.kept(name, rows)
        if attention.window is None:
            state[self.position : stop] = new
            return state[:stop], 0
        length = len(state)
        start = max(0, self.position - length)
        held = torch.cat((state[torch.arange(start, self.position) % length], new))
        state[torch.arange(max(self.position, stop - length), stop) % length] = new[-length:]
        return held, start
