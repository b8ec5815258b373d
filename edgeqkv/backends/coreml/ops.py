"""The MIL interpreter: a model's operations, in fp16, as operations of a Core ML program (opset iOS 18).

`MilOps` is all that a model without a state needs: static shapes, no tensor of more than four dimensions. Activations
lie as the layout has it (`edgeqkv.backends.coreml.layouts`). Of a decoder's, how the state is appended to
(`edgeqkv.backends.coreml.states`) and what a call is given (`edgeqkv.backends.coreml.calls`) are parts that are put
together; everything else is in `StatefulOps`, once.

Where a model shares projections, the same variable is query, key or value of an attention, and read from the same
state. Query heads that read the same KV head are folded into the rows of the queries, so that no key or value is ever
repeated.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import isclose
from typing import TYPE_CHECKING, Final

import numpy as np

from edgeqkv.backends.coreml.calls import Call
from edgeqkv.backends.coreml.layouts import Layout, gathered
from edgeqkv.backends.coreml.mil import Var, mb
from edgeqkv.backends.coreml.states import Update
from edgeqkv.backends.coreml.weights import WeightPool
from edgeqkv.errors import UnsupportedError
from edgeqkv.model.ops import Ops
from edgeqkv.model.weights import Weight

if TYPE_CHECKING:
    from edgeqkv.model.layers import Activation, Attention, Heads, Linear, Norm

__all__ = ["ALLOWED", "MilOps", "StatefulOps", "fp16_factors"]

ALLOWED: Final = frozenset(
    {
        "normalization without scale",
        "the activation gelu_tanh",
        "the activation silu",
        "the activation relu",
        "a logit softcap",
    }
)
"""What a package has beyond plain layers."""


class MilOps(Ops[Var]):
    """Interprets a model into the function that is being built.

    Args:
        weights: where constants come from.
        layout: how activations lie.
    """

    def __init__(self, weights: WeightPool, layout: Layout) -> None:
        self._weights = weights
        self._layout = layout

    def embedding(self, ids: Var, table: Weight) -> Var:
        return self._layout.from_rows(gathered(self._weights, table, 2, ids))

    def add_positions(self, x: Var, table: Weight) -> Var:
        return mb.add(x=x, y=self._layout.whole(table))

    def norm(self, x: Var, norm: Norm) -> Var:
        weights = {"gamma": norm.scale, "beta": norm.bias}
        return mb.layer_norm(
            x=x,
            axes=[self._layout.channel_axis],
            **{name: self._weights.constant(weight, 1) for name, weight in weights.items() if weight is not None},
            epsilon=np.float16(norm.eps),
        )

    def linear(self, x: Var, linear: Linear) -> Var:
        return self._layout.linear(x, linear)

    def activation(self, x: Var, kind: Activation) -> Var:
        match kind:
            case "gelu":
                return mb.gelu(x=x, mode="EXACT")
            case "gelu_tanh":
                return mb.gelu(x=x, mode="TANH_APPROXIMATION")
            case "silu":
                return mb.silu(x=x)
            case "relu":
                return mb.relu(x=x)

    def add(self, x: Var, y: Var) -> Var:
        return mb.add(x=x, y=y)

    def multiply(self, x: Var, y: Var) -> Var:
        return mb.mul(x=x, y=y)

    def scale(self, x: Var, factor: float) -> Var:
        for part in fp16_factors(factor):
            x = mb.mul(x=x, y=part)
        return x

    def softcap(self, x: Var, cap: float) -> Var:
        return self.scale(mb.tanh(x=self.scale(x, 1 / cap)), cap)

    def attention(self, layer: int, q: Var, k: Var, v: Var, attention: Attention) -> Var:
        heads, term = attention.heads, attention.term
        # What is shared is split once.
        split = {x: self._layout.split_heads(x, heads.query, heads.dim) for x in dict.fromkeys((q, k, v))}
        queries, mask = self._scaled(split[q], attention), {}
        if term is not None:
            mask = {"attn_mask": self._weights.arranged(term.bias, (1, 1, *term.bias.shape))}
        mixed = mb.scaled_dot_product_attention(query=queries, key=split[k], value=split[v], **mask)
        return self._layout.merge_heads(mixed)

    def patches(self, pixels: Var, size: int) -> Var:
        batch, channels, height, width = pixels.shape
        right, bottom = -width % size, -height % size
        if right or bottom:
            pixels = mb.pad(
                x=pixels, pad=[0, 0, 0, 0, 0, bottom, 0, right], mode="constant", constant_val=np.float16(0)
            )
        down, across = (height + bottom) // size, (width + right) // size
        # Two exchanges of neighbouring dimensions, the others being one: columns of patches with rows of pixels,
        # then patches with channels.
        strips = mb.reshape(x=pixels, shape=[batch * channels * down, size, across, size])
        squares = mb.transpose(x=strips, perm=[0, 2, 1, 3])
        by_channel = mb.reshape(x=squares, shape=[batch, channels, down * across, size * size])
        by_patch = mb.transpose(x=by_channel, perm=[0, 2, 1, 3])
        rows = mb.reshape(x=by_patch, shape=[batch, down * across, channels * size * size])
        return self._layout.from_rows(rows)

    def prepend(self, x: Var, row: Weight) -> Var:
        first, batch = self._layout.whole(row), x.shape[0]
        if batch > 1:
            first = mb.tile(x=first, reps=[batch] + [1] * (len(first.shape) - 1))
        return mb.concat(values=[first, x], axis=self._layout.token_axis)

    def first(self, x: Var) -> Var:
        return self._layout.first(x)

    def last(self, x: Var) -> Var:
        return x

    def logits(self, x: Var, table: Weight) -> Var:
        return self._layout.logits(x, table)

    def _scaled(self, queries: Var, attention: Attention) -> Var:
        """Queries times what the attention operation, which scales by 1/√dim, does not do itself."""
        term = 1.0 if attention.term is None else attention.term.scale
        own = attention.scale * attention.heads.dim**0.5
        factor = term if isclose(own, 1.0) else own * term
        return queries if factor == 1.0 else self.scale(queries, factor)


class StatefulOps(MilOps):
    """Interprets a decoder into the function that is being built.

    Args:
        weights: where constants come from.
        layout: how activations lie.
        update: how the state is appended to.
        call: what this function is given, and gives back.
        states: the state variables by role: ``kv``, or ``k`` and ``v``.
    """

    def __init__(
        self, weights: WeightPool, layout: Layout, update: Update, call: Call, states: Mapping[str, Var]
    ) -> None:
        super().__init__(weights, layout)
        self._update = update
        self._call = call
        self._states = states

    def embedding(self, ids: Var, table: Weight) -> Var:
        return self._layout.rows(table, mb.reshape(x=ids, shape=[-1]))

    def add_positions(self, x: Var, table: Weight) -> Var:
        return mb.add(x=x, y=self._layout.rows(table, self._call.place.positions))

    def attention(self, layer: int, q: Var, k: Var, v: Var, attention: Attention) -> Var:
        heads = attention.heads
        keys = self._appended("kv" if v is k else "k", layer, k, heads)
        values = keys if v is k else self._appended("v", layer, v, heads)
        queries = self._scaled(self._layout.split_heads(q, heads.query, heads.dim), attention)
        mixed = mb.scaled_dot_product_attention(
            query=mb.reshape(x=queries, shape=[1, heads.kv, -1, heads.dim]),
            key=keys,
            value=values,
            attn_mask=self._call.mask(heads.query // heads.kv),
        )
        return self._layout.merge_heads(mb.reshape(x=mixed, shape=[1, heads.query, -1, heads.dim]))

    def last(self, x: Var) -> Var:
        return self._layout.last(x) if self._call.last_only else x

    def _appended(self, role: str, layer: int, rows: Var, heads: Heads) -> Var:
        new = self._layout.split_heads(rows, heads.kv, heads.dim)
        return self._update.append(self._states[role], layer, new, self._call.place)


def fp16_factors(scale: float) -> list[np.float16]:
    """Two numbers of fp16 whose product is the scale to 1e-5 of it, mostly to 1e-6; one where that is exact.

    Rounded to one, the scale would be off by up to 5e-4 of itself, and every score with it. Below 1e-4, where fp16 has
    fewer digits, it is less exact, and scores so small matter less.

    Raises:
        UnsupportedError: it is beyond fp16's range.
    """
    if abs(scale) > float(np.finfo(np.float16).max):
        raise UnsupportedError(
            f"the 2-D position term scales scores by {scale:.4g}, beyond fp16's largest number; Core ML packages "
            f"compute in fp16. Choose another target"
        )
    if float(np.float16(scale)) == scale:
        return [np.float16(scale)]
    first = np.arange(1024, 2048) / 1024  # every number of fp16 from 1 to 2
    second = (scale / first).astype(np.float16)
    best = int(np.abs(first * second.astype(np.float64) - scale).argmin())
    return [np.float16(first[best]), second[best]]
