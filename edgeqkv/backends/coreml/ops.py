"""The MIL interpreter: a model's operations, in fp16, as operations of a Core ML program (opset iOS 18).

`MilOps` is all that a model without a state needs: static shapes, no tensor of more than four dimensions. Activations
lie as the layout has it (`edgeqkv.backends.coreml.layouts`). Of a decoder's, how the state is appended to
(`edgeqkv.backends.coreml.states`) and what a call is given (`edgeqkv.backends.coreml.signatures`) are parts that are
put together; everything else is in `StatefulOps`, once.

Where a model shares projections, the same variable is query, key or value of an attention, and read from the same
state. Query heads that read the same KV head are folded into the rows of the queries, so that no key or value is ever
repeated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isclose
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt
import torch

from edgeqkv.backends.coreml.layouts import Layout, gathered, part_along
from edgeqkv.backends.coreml.mil import Var, mb
from edgeqkv.backends.coreml.signatures import GraphSignature
from edgeqkv.backends.coreml.states import Slot, Update
from edgeqkv.backends.coreml.weights import WeightPool
from edgeqkv.errors import UnsupportedError
from edgeqkv.model.ops import Ops
from edgeqkv.model.weights import Weight
from edgeqkv.reference.attention import turns

if TYPE_CHECKING:
    from edgeqkv.model.layers import Activation, Attention, Linear, Norm, Rope

__all__ = ["ALLOWED", "CAUSAL", "MilOps", "StatefulOps", "fp16_factors"]

ALLOWED: Final = frozenset(
    {
        "rms normalization",
        "normalization scales with an offset",
        "normalization without scale",
        "the activation gelu_tanh",
        "the activation silu",
        "the activation relu",
        "a logit softcap",
        "an attention softcap",
    }
)
"""What a package has beyond plain layers."""

CAUSAL: Final = ALLOWED | {
    "layers with different heads",
    "layers that share differently",
    "rotary positions",
    "query or key normalization",
    "an attention window",
    "normalized or rotated keys of a merged state",
    "value normalization",
    "rows that are keys and values",
    "layers with inputs of their own",
    "layers that read another layer's state",
}
"""And what a decoder's has."""


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
        return self._normalized(x, norm, self._layout.channel_axis)

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
        mask = None if term is None else self._weights.arranged(term.bias, (1, 1, *term.bias.shape))
        return self._layout.merge_heads(self._mixed(split[q], split[k], split[v], mask, attention))

    def placed(self, x: Var, heads: int, dim: int, norm: Norm | None, rope: Rope | None) -> Var:
        assert rope is None, "only what keeps a state knows positions"
        if norm is None:
            return x
        return self._layout.merge_heads(self._normalized(self._layout.split_heads(x, heads, dim), norm, 3))

    def part(self, x: Var, heads: int, dim: int, start: int, stop: int) -> Var:
        if heads == 1:
            return part_along(x, self._layout.channel_axis, start, stop)
        return self._layout.merge_heads(part_along(self._layout.split_heads(x, heads, dim), 3, start, stop))

    def join(self, parts: Sequence[Var], heads: int, dims: Sequence[int]) -> Var:
        if heads == 1:
            return mb.concat(values=list(parts), axis=self._layout.channel_axis)
        split = [self._layout.split_heads(each, heads, dim) for each, dim in zip(parts, dims, strict=True)]
        return self._layout.merge_heads(mb.concat(values=split, axis=3))

    def pad(self, x: Var, heads: int, dim: int, count: int) -> Var:
        split = self._layout.split_heads(x, heads, dim)
        zeros = [0] * 7 + [count]
        return self._layout.merge_heads(mb.pad(x=split, pad=zeros, mode="constant", constant_val=np.float16(0)))

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

    def _normalized(self, x: Var, norm: Norm, axis: int) -> Var:
        """Normalization over an axis.

        Squares of large activations are beyond fp16's range, and only the operation of layer normalization computes
        them in a wider one. Beside their opposites numbers have the mean 0, and their mean square is their variance.

        An offset is not added to the scale, which fp16 would round to fewer digits.
        """
        eps = np.float16(norm.eps)
        if norm.kind == "layer" and not norm.offset:
            weights = {"gamma": norm.scale, "beta": norm.bias}
            constants = {name: self._weights.constant(each, 1) for name, each in weights.items() if each is not None}
            return mb.layer_norm(x=x, axes=[axis], **constants, epsilon=eps)
        if norm.kind == "layer":
            normed = mb.layer_norm(x=x, axes=[axis], epsilon=eps)
        else:
            both = mb.concat(values=[x, mb.mul(x=x, y=np.float16(-1))], axis=axis)
            normed = part_along(mb.layer_norm(x=both, axes=[axis], epsilon=eps), axis, 0, x.shape[axis])
        rank = len(x.shape) - axis
        result = normed
        if norm.scale is not None:
            result = mb.mul(x=normed, y=self._weights.constant(norm.scale, rank))
            if norm.offset:
                result = mb.add(x=result, y=self.scale(normed, norm.offset))
        return result if norm.bias is None else mb.add(x=result, y=self._weights.constant(norm.bias, rank))

    def _mixed(self, queries: Var, keys: Var, values: Var, mask: Var | None, attention: Attention) -> Var:
        """Attention of ``[B, heads, S, dim]``; one operation, unless the scores have a cap."""
        term = 1.0 if attention.term is None else attention.term.scale
        if attention.softcap is None:
            own = attention.scale * attention.heads.dim**0.5  # the operation scales by 1/√dim
            scaled = self._times(queries, term if isclose(own, 1.0) else own * term)
            added = {} if mask is None else {"attn_mask": mask}
            return mb.scaled_dot_product_attention(query=scaled, key=keys, value=values, **added)
        scaled = self._times(queries, attention.scale * term / attention.softcap)
        scores = self._times(mb.tanh(x=mb.matmul(x=scaled, y=keys, transpose_y=True)), attention.softcap)
        weights = mb.softmax(x=scores if mask is None else mb.add(x=scores, y=mask), axis=-1)
        return mb.matmul(x=weights, y=values)

    def _times(self, x: Var, factor: float) -> Var:
        return x if factor == 1.0 else self.scale(x, factor)


class StatefulOps(MilOps):
    """Interprets a decoder into the function that is being built.

    Args:
        weights: where constants come from.
        layout: how activations lie.
        update: how the state is appended to.
        signature: what this function is given, and gives back.
        context: positions that there are.
        slots: where the state of a layer and role (``kv``, or ``k`` and ``v``) is.
    """

    def __init__(
        self,
        weights: WeightPool,
        layout: Layout,
        update: Update,
        signature: GraphSignature,
        context: int,
        slots: Mapping[tuple[int, str], Slot],
    ) -> None:
        super().__init__(weights, layout)
        self._update = update
        self._signature = signature
        self._context = context
        self._slots = slots
        self._turns: dict[tuple[Rope, int | None], tuple[Var, Var]] = {}
        self._seen: dict[int, tuple[Var, Var, int]] = {}

    def embedding(self, ids: Var, table: Weight) -> Var:
        return self._layout.rows(table, mb.reshape(x=ids, shape=[-1]))

    def add_positions(self, x: Var, table: Weight) -> Var:
        return mb.add(x=x, y=self._layout.rows(table, self._signature.place.positions))

    def attention(self, layer: int, q: Var, k: Var, v: Var, attention: Attention) -> Var:
        heads = attention.heads
        queries = self._placed(self._split(q, heads.query, heads.dim), attention.q_norm, attention.rope, None)
        if attention.source is None:
            self._seen[layer] = self._stored_and_seen(layer, k, v, attention)
        keys, values, length = self._seen[layer if attention.source is None else attention.source]
        window = attention.window if attention.window is not None and attention.window < self._context else None
        mask = self._signature.mask(heads.query // heads.kv, length, window)
        folded = mb.reshape(x=queries, shape=[1, heads.kv, -1, heads.dim])
        mixed = part_along(
            self._mixed(folded, keys, values, mask, attention), 3, heads.dim - attention.value_dim, heads.dim
        )
        return self._layout.merge_heads(mb.reshape(x=mixed, shape=[1, heads.query, -1, attention.value_dim]))

    def placed(self, x: Var, heads: int, dim: int, norm: Norm | None, rope: Rope | None) -> Var:
        if norm is None and rope is None:
            return x
        return self._layout.merge_heads(self._placed(self._split(x, heads, dim), norm, rope, None))

    def _stored_and_seen(self, layer: int, k: Var, v: Var, attention: Attention) -> tuple[Var, Var, int]:
        """Put this call's keys and values into the layer's state; what is seen of it then, and the state's length."""
        heads = attention.heads
        length = self._slots[layer, attention.roles[0]].length
        rows = self._split(k, heads.kv, heads.dim)
        if v is not k:
            keys = self._appended(layer, "k", self._placed(rows, attention.k_norm, attention.rope, None))
            return keys, self._appended(layer, "v", self._split(v, heads.kv, heads.dim)), length
        keys = values = self._appended(layer, "kv", rows)
        if attention.k_norm is not None or attention.rope is not None:
            # What is cut out of a state up to the call's end has lost all of its sizes.
            fixed = self._signature.place.fixed
            sized = values if fixed else mb.reshape(x=values, shape=[1, heads.kv, -1, heads.dim])
            keys = self._placed(sized, attention.k_norm, attention.rope, length)
        return keys, values, length

    def last(self, x: Var) -> Var:
        return self._layout.last(x) if self._signature.last_only else x

    def _split(self, x: Var, heads: int, dim: int) -> Var:
        return self._layout.split_heads(x, heads, dim)

    def _appended(self, layer: int, role: str, rows: Var) -> Var:
        return self._update.append(self._slots[layer, role], rows, self._signature.place)

    def _placed(self, x: Var, norm: Norm | None, rope: Rope | None, length: int | None) -> Var:
        """Heads ``[1, heads, n, dim]`` of queries or keys, normalized and rotated to where they stand: as this call's
        tokens, or as what is read of a state of this length."""
        x = x if norm is None else self._normalized(x, norm, 3)
        return x if rope is None else self._rotated(x, rope, *self._turn(rope, length))

    def _rotated(self, x: Var, rope: Rope, cos: Var, sin: Var) -> Var:
        """Every pair of channels turned.

        Neighbours that are a pair come out half the channels apart: queries and keys alike, whose products do not
        depend on the order.
        """
        half = rope.dims // 2
        if rope.interleaved:
            first, second = (part_along(x, 3, start, rope.dims, 2) for start in (0, 1))
            turning = mb.concat(values=[first, second], axis=3)
        else:
            first, second = part_along(x, 3, 0, half), part_along(x, 3, half, rope.dims)
            turning = part_along(x, 3, 0, rope.dims)
        across = mb.mul(x=mb.concat(values=[second, first], axis=3), y=sin)
        turned = mb.add(x=mb.mul(x=turning, y=cos), y=across)
        rest = [part_along(x, 3, rope.dims, x.shape[3])] if rope.dims < x.shape[3] else []
        return mb.concat(values=[turned, *rest], axis=3) if rest else turned

    def _turn(self, rope: Rope, length: int | None) -> tuple[Var, Var]:
        """What both channels of every pair are multiplied with ``[1, 1, n, dims]``, themselves and crosswise: cosines,
        and sines with the first ones' sign turned.

        They are looked up, for sines of large angles are not to be trusted on a GPU, and the angles are beyond fp16.
        """
        if (rope, length) not in self._turns:
            positions = self._signature.place.positions if length is None else self._signature.stands(length)
            halves = []
            for index, name in enumerate(("cos", "sin")):
                table = self._weights.numbers((rope, name), lambda i=index: _table(rope, self._context, i))  # type: ignore[misc]
                rows = mb.gather(x=table, indices=positions, axis=0, validate_indices=False)
                halves.append(mb.expand_dims(x=mb.cast(x=rows, dtype="fp16"), axes=[0, 1]))
            cos, sin = halves
            opposite = mb.mul(x=sin, y=np.float16(-1))
            both = mb.concat(values=[cos, cos], axis=3), mb.concat(values=[opposite, sin], axis=3)
            self._turns[rope, length] = both
        return self._turns[rope, length]


def _table(rope: Rope, context: int, which: int) -> npt.NDArray[np.float32]:
    """Cosines (0) or sines (1) of every pair's angle at every position, ``[context, dims / 2]``."""
    result: npt.NDArray[np.float32] = turns(rope, torch.arange(context))[which].squeeze(1).numpy()
    return result


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
