"""The module that is quantized and compiled: the model's next tokens, with the state as inputs and new rows as outputs.

Everything in it is something that the NPU has: rows are gathered, nothing is written, no shape and no branch depends on
a number.
"""

from __future__ import annotations

from typing import Final

import torch
import torch.nn.functional as F

from edgeqkv.backends.ends import input_spec
from edgeqkv.model.layers import Attention, Heads, Norm
from edgeqkv.model.model import Model
from edgeqkv.model.weights import Weight
from edgeqkv.reference.ops import TorchOps

__all__ = ["EncoderStep", "Step"]

Tensor = torch.Tensor

_HIDDEN: Final = -24.0
"""What is added to a score that is not to be seen. e⁻²⁴ is nothing beside what 8 or 16 bits hold up to 1; and no more
than that, because the sum's codes have to reach from here to the largest score."""


class _Holding(torch.nn.Module):
    """A module with a model's weights in float32 as buffers: what is quantized are those that come out of the trace."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.network = model.network
        self._names: dict[Weight, str] = {}
        for index, weight in enumerate(model.weights):
            self._names[weight] = f"weight_{index}"
            self.register_buffer(f"weight_{index}", weight.values().float().contiguous())

    def held(self, weight: Weight) -> Tensor:
        """The buffer of a weight."""
        return self.get_buffer(self._names[weight])


class Step(_Holding):
    """``forward(ids i32 [1, T], positions i32 [1, T], [index i32 [1],] past…) → (logits, new…)``.

    Of several tokens, ``index`` says whose logits are wanted. ``past`` is ``[1, KV, context, D]`` a tensor of the
    state, ``new`` ``[1, KV, T, D]``.

    Attributes:
        state: the tensors of the state, in the order of inputs and outputs; known once it has been called.
    """

    def __init__(self, model: Model, context: int, tokens: int) -> None:
        super().__init__(model)
        self.context, self.tokens = context, tokens
        self.specs = model.state(context)
        # A row a position: what a call that starts there sees of the state.
        self.register_buffer("visible", torch.ones(context, context).tril(-1).sub(1).mul(-_HIDDEN))
        self.register_buffer("among", torch.ones(tokens, tokens).tril().sub(1).mul(-_HIDDEN))

    def forward(self, ids: Tensor, positions: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        index, past = (rest[0], rest[1:]) if self.tokens > 1 else (None, rest)
        names = [spec.name for spec in self.specs]
        ops = _StepOps(self, positions, index, dict(zip(names, past, strict=True)))
        logits = self.network.outputs(ops, ids)
        return (logits[0], *(ops.new[name] for name in names))

    def example(self) -> tuple[Tensor, ...]:
        """Inputs of the right shapes."""
        count = torch.arange(self.tokens, dtype=torch.int32)[None]
        index = (torch.zeros(1, dtype=torch.int32),) if self.tokens > 1 else ()
        return (count, count, *index, *(torch.zeros(1, s.kv_heads, self.context, s.dim) for s in self.specs))


def normed(ops: TorchOps, x: Tensor, norm: Norm) -> Tensor:
    """A layer normalization. The mean of squares is a sum of small squares, because a mean is stored in its operand's
    codes: the largest square would say how fine the variance is, of which there is one, not one a channel."""
    assert norm.kind == "layer", "checked before"
    centred = x - torch.mean(x, -1, keepdim=True)
    part = centred * x.shape[-1] ** -0.5
    variance = torch.sum(part * part, -1, keepdim=True)
    result = centred * torch.rsqrt(variance + norm.eps)
    if norm.scale is not None:
        result = result * ops.values(norm.scale)
    return result if norm.bias is None else result + ops.values(norm.bias)


def softmax(scores: Tensor) -> Tensor:
    """Of the last dimension. The table of reciprocals has a line every 1/256 of the largest sum, which is as coarse as
    the least sums are small: one step of Newton's method makes good what is read off between two lines."""
    powers = torch.exp(scores - torch.amax(scores, -1, keepdim=True))
    total = torch.sum(powers, -1, keepdim=True)
    guess = torch.reciprocal(total)
    return powers * (guess * (2.0 - total * guess))


class _StepOps(TorchOps):
    """Interprets a decoder into a `Step`."""

    def __init__(self, step: Step, positions: Tensor, index: Tensor | None, past: dict[str, Tensor]) -> None:
        self._step, self._positions, self._index, self._past = step, positions, index, past
        self._mask: Tensor | None = None
        self.new: dict[str, Tensor] = {}

    def values(self, weight: Weight) -> Tensor:
        return self._step.held(weight)

    def add_positions(self, x: Tensor, table: Weight) -> Tensor:
        return x + F.embedding(self._positions, self.values(table))

    def norm(self, x: Tensor, norm: Norm) -> Tensor:
        return normed(self, x, norm)

    def last(self, x: Tensor) -> Tensor:
        return x if self._index is None else torch.index_select(x, 1, self._index)

    def attention(self, layer: int, q: Tensor, k: Tensor, v: Tensor, attention: Attention) -> Tensor:
        heads, tokens = attention.heads, self._step.tokens
        group = heads.query // heads.kv
        if v is k:
            keys = values = self._appended(f"kv_{layer}", k, heads)
        else:
            keys, values = self._appended(f"k_{layer}", k, heads), self._appended(f"v_{layer}", v, heads)
        scaled = (q * attention.scale).view(tokens, heads.kv, group, heads.dim)
        # The queries that read one KV head are rows of one matrix.
        folded = scaled.permute(1, 2, 0, 3).reshape(heads.kv, group * tokens, heads.dim)
        scores = torch.matmul(folded, keys.transpose(1, 2)).view(heads.kv, group, tokens, -1) + self._hidden()
        weights = softmax(scores).view(heads.kv, group * tokens, -1)
        mixed = torch.matmul(weights, values).view(heads.kv, group, tokens, heads.dim)
        return mixed.permute(2, 0, 1, 3).reshape(1, tokens, heads.query * heads.dim)

    def _appended(self, name: str, rows: Tensor, heads: Heads) -> Tensor:
        """The state with this call's rows behind it, ``[KV, context + T, D]``."""
        new = self.new[name] = rows.view(1, self._step.tokens, heads.kv, heads.dim).transpose(1, 2)
        return torch.cat([self._past[name], new], 2)[0]

    def _hidden(self) -> Tensor:
        """``[1, 1, T, context + T]``: what is added to the scores."""
        if self._mask is None:
            step = self._step
            row = F.embedding(self._positions[:, :1], step.get_buffer("visible"))
            past = torch.cat([row] * step.tokens, 1) if step.tokens > 1 else row
            self._mask = torch.cat([past, step.get_buffer("among")[None]], 2)[None]
        return self._mask


class EncoderStep(_Holding):
    """``forward(input) → (logits,)`` of a whole batch."""

    def __init__(self, model: Model, batch: int) -> None:
        super().__init__(model)
        self._spec = input_spec(model.config, batch, "int32")

    def forward(self, given: Tensor) -> tuple[Tensor, ...]:
        return (self.network.outputs(_EncoderOps(self), given),)

    def example(self) -> tuple[Tensor, ...]:
        """An input of the right shape."""
        return (torch.zeros([int(size) for size in self._spec.shape], dtype=getattr(torch, self._spec.numpy_dtype)),)


class _EncoderOps(TorchOps):
    def __init__(self, step: EncoderStep) -> None:
        self._step = step

    def values(self, weight: Weight) -> Tensor:
        return self._step.held(weight)
