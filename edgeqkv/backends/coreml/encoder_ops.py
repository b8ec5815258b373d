"""The MIL interpreter of encoders: static shapes, no tensor of more than four dimensions, no state.

Activations lie as the layout has it, a batch in their first dimension. Where a model shares projections, the same
variable is query, key or value of an attention.
"""

from __future__ import annotations

import numpy as np

from edgeqkv.backends.coreml.layer_ops import MilLayerOps
from edgeqkv.backends.coreml.layouts import Layout
from edgeqkv.backends.coreml.mil import Var, mb
from edgeqkv.backends.coreml.weights import WeightPool
from edgeqkv.bundle.manifest import Normalization, TensorSpec
from edgeqkv.errors import UnsupportedError
from edgeqkv.model.layers import ScoreTerm
from edgeqkv.model.ops import EncoderOps, Heads
from edgeqkv.model.weights import Weight

__all__ = ["MilEncoderOps", "fp16_factors"]


class MilEncoderOps(MilLayerOps, EncoderOps[Var]):
    """Interprets an encoder into the function that is being built.

    Args:
        weights: where constants come from.
        layout: how activations lie.
        input_: what the function is given.
        spec: ``[batch, …]``, the description of that.
        normalization: what is to be done to it, if it is an image.
    """

    def __init__(
        self,
        weights: WeightPool,
        layout: Layout,
        input_: Var,
        spec: TensorSpec,
        normalization: Normalization | None = None,
    ) -> None:
        super().__init__(weights, layout)
        self._batch, *self._shape = (int(size) for size in spec.shape)
        vectors = spec.dtype == "fp16" and len(self._shape) == 2
        # Ids and pixels are taken apart by the words that read them.
        self.inputs = layout.from_rows(input_) if vectors else input_
        if normalization is not None:
            self.inputs = _normalized(input_, normalization)

    def finish(self, logits: Var, output: TensorSpec) -> Var:
        """The output that is declared."""
        rows = self._layout.to_rows(logits)
        shaped = rows if tuple(rows.shape) == output.shape else mb.reshape(x=rows, shape=list(output.shape))
        shaped.name = output.name
        return shaped

    def rows(self, ids: Var, table: Weight) -> Var:
        found = mb.gather(x=self._weights.constant(table, 2), indices=ids, axis=0, validate_indices=False)
        return self._layout.from_rows(found)

    def patches(self, pixels: Var, size: int) -> Var:
        channels, height, width = self._shape
        right, bottom = -width % size, -height % size
        if right or bottom:
            pixels = mb.pad(
                x=pixels, pad=[0, 0, 0, 0, 0, bottom, 0, right], mode="constant", constant_val=np.float16(0)
            )
        down, across = (height + bottom) // size, (width + right) // size
        # Two exchanges of neighbouring dimensions, the others being one: columns of patches with rows of pixels,
        # then patches with channels.
        strips = mb.reshape(x=pixels, shape=[self._batch * channels * down, size, across, size])
        squares = mb.transpose(x=strips, perm=[0, 2, 1, 3])
        by_channel = mb.reshape(x=squares, shape=[self._batch, channels, down * across, size * size])
        by_patch = mb.transpose(x=by_channel, perm=[0, 2, 1, 3])
        rows = mb.reshape(x=by_patch, shape=[self._batch, down * across, channels * size * size])
        return self._layout.from_rows(rows)

    def prepend(self, x: Var, row: Weight) -> Var:
        first = self._layout.whole(row)
        if self._batch > 1:
            first = mb.tile(x=first, reps=[self._batch] + [1] * (len(first.shape) - 1))
        return mb.concat(values=[first, x], axis=self._layout.token_axis)

    def add_positions(self, x: Var, table: Weight) -> Var:
        return mb.add(x=x, y=self._layout.whole(table))

    def attend(self, q: Var, k: Var, v: Var, heads: Heads, term: ScoreTerm | None) -> Var:
        # What is shared is split once.
        split = {x: self._layout.split_heads(x, heads.query, heads.dim) for x in dict.fromkeys((q, k, v))}
        queries, mask = split[q], {}
        if term is not None:
            for factor in fp16_factors(term.scale):
                queries = mb.mul(x=queries, y=factor)
            mask = {"attn_mask": self._weights.arranged(term.bias, (1, 1, *term.bias.shape))}
        mixed = mb.scaled_dot_product_attention(query=queries, key=split[k], value=split[v], **mask)
        return self._layout.merge_heads(mixed)

    def first(self, x: Var) -> Var:
        return self._layout.first(x)


def _normalized(image: Var, normalization: Normalization) -> Var:
    """Pixels 0 to 255 in fp32 as the model was trained on them, in fp16.

    In fp32 because a factor and a term rounded to fp16 would move a bright pixel by up to two of its 256 levels.
    """
    mean, std = (np.array(values).reshape(1, -1, 1, 1) for values in (normalization.mean, normalization.std))
    scaled = mb.mul(x=image, y=(1 / (255 * std)).astype(np.float32))
    return mb.cast(x=mb.add(x=scaled, y=(-mean / std).astype(np.float32)), dtype="fp16")


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
