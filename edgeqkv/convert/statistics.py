"""What conversion has to know of a layer, seen while it computes: one more interpreter of the ops.

An error in a layer's keys and values counts as much as it changes what the layer puts out. To first order that is a
quadratic form in each projection, and its matrices are means over a text:

- of values: the output changes by ``W_o ΔW_v ȳ_t``, where ``ȳ_t = Σ_j p_tj y_j`` is what attention makes of the layer's
  normalized input. So what counts is the covariance of ``ȳ``, a head's own.
- of keys: the score of j changes by ``q_t · ΔW_k y_j``, and the output, through softmax, by the covariance under
  ``p_t`` of that and of the values: ``C_t = Σ_j p_tj (W_o v_j)(y_j − ȳ_t)ᵀ``. So what counts are the means of
  ``C_tᵀ C_t`` and of ``q qᵀ``.

Both are exact derivatives. That the two means of the keys are taken apart from each other is the one approximation;
what it misses on the whole, because queries are large where much can change, is made up for by a factor: it is right
for an error that is a part of the keys themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from edgeqkv.convert.room import Room
from edgeqkv.model import storage
from edgeqkv.model.layers import Attention, Linear
from edgeqkv.reference.ops import TorchOps

__all__ = ["LayerStatistics", "ObservingOps"]

Tensor = torch.Tensor

_FIRST = 8  # positions before this see too little to say how a layer attends


@dataclass(frozen=True, eq=False)
class LayerStatistics:
    """Means over a text, of ``y [C]``, the input of a layer's projections. H query heads of D numbers.

    Attributes:
        mean, covariance: of ``y``: ``[C]``, ``[C, C]``. About zero where the layer has no bias to take up a mean.
        queries: ``[H, D, D]``, of ``q qᵀ`` times the square of the scores' scale.
        keys: ``[C, C]`` a head, how an error of keys counts.
        values: ``[C, C]`` a head, how an error of values counts: the covariance of ``ȳ``.
        value_means: ``[H, C]``, of ``ȳ``.
        key_noise, value_noise: ``[H]``, how an error counts that is another for every position, such as rounding:
            means of ``Σ_j p_j² |W_o (v_j − v̄)|²`` and of ``Σ_j p_j²``.
        stream: mean square of what the layer passes on, apart from its mean over channels: beside it an error is large
            or small, whatever the layer.
    """

    mean: Tensor
    covariance: Tensor
    queries: Tensor
    keys: Sequence[Tensor]
    values: Sequence[Tensor]
    value_means: Tensor
    key_noise: Tensor
    value_noise: Tensor
    stream: float = 1.0


class ObservingOps(TorchOps):
    """Computes a batch of sequences, and sums up what one attention layer does.

    Args:
        attention: the layer that is looked at; others are only computed.
        positions: how many queries of each sequence are looked at, chosen at random.
        generator: of the choice.
        room: where what is summed up lies.
    """

    def __init__(
        self, attention: Attention, positions: int, generator: torch.Generator, room: Room | None = None
    ) -> None:
        heads, width = attention.heads, attention.k.weight.shape[1]
        self._record, self._positions, self._generator = attention, positions, generator
        self._centred = attention.k.bias is not None and attention.out.bias is not None
        self._input = torch.empty(0)
        self._rows = self._queries = 0
        self._sum, self._second = zeros(width), zeros(width, width)
        self._query_second = zeros(heads.query, heads.dim, heads.dim)
        self._together = zeros(heads.query)
        self._mixed_sum = zeros(heads.query, width)
        self._key_noise, self._value_noise = zeros(heads.query), zeros(heads.query)
        # As large as the rest of the layer, and sums of some thousand squares: float32 is enough.
        room = room or Room()
        self._keys, self._values = ([room.zeros(width, width) for _ in range(heads.query)] for _ in ("keys", "values"))
        # |W_o u| = |R u|, in as many dimensions as a head has.
        out = attention.out.weight.values().view(-1, heads.query, heads.dim).permute(1, 0, 2)
        self._output_root = torch.linalg.qr(out).R

    def linear(self, x: Tensor, linear: Linear) -> Tensor:
        if linear is self._record.k:
            self._input = x
        return super().linear(x, linear)

    def attention(self, layer: int, q: Tensor, k: Tensor, v: Tensor, attention: Attention) -> Tensor:
        if attention is self._record:
            heads = attention.heads
            queries, keys, values = (x.view(*x.shape[:-1], -1, heads.dim).transpose(-2, -3) for x in (q, k, v))
            group = heads.query // heads.kv
            self._observe(queries, *(x.repeat_interleave(group, dim=-3) for x in (keys, values)))
        return super().attention(layer, q, k, v, attention)

    def statistics(self) -> LayerStatistics:
        """What was seen; it is taken along, so that nothing can be seen after it."""
        mean = self._sum / self._rows
        mixed = self._mixed_sum / self._queries
        covariance = self._second / self._rows
        if self._centred:
            covariance -= torch.outer(mean, mean)
        else:
            mean, mixed = torch.zeros_like(mean), torch.zeros_like(mixed)
        queries = self._query_second * self._record.scale**2 / self._rows
        for head, (keys, values) in enumerate(zip(self._keys, self._values, strict=True)):
            values /= self._queries
            values.addr_(mixed[head].float(), mixed[head].float(), alpha=-1)
            keys *= self._correlation(head, queries[head], keys) / self._queries
            storage.give_back(keys)
            storage.give_back(values)
        return LayerStatistics(
            mean=mean,
            covariance=covariance,
            queries=queries,
            keys=self._keys,
            values=self._values,
            value_means=mixed,
            key_noise=self._key_noise / self._queries,
            value_noise=self._value_noise / self._queries,
        )

    def _correlation(self, head: int, queries: Tensor, keys: Tensor) -> float:
        """How much more an error in proportion to a head's keys counts than the two means say."""
        query, kv, dim = self._record.heads
        start = head // (query // kv) * dim
        weights = self._record.k.weight.rows(start, start + dim).values()
        apart = float(((weights @ keys @ weights.T).double() * queries).sum())
        return float(self._together[head]) / max(apart, torch.finfo(torch.float64).tiny)

    def _observe(self, q: Tensor, k: Tensor, v: Tensor) -> None:
        """``[B, H, S, D]`` each."""
        y = self._input
        rows = y.flatten(0, -2)
        self._rows += len(rows)
        self._sum += rows.sum(0, dtype=torch.float64)
        self._second += rows.T @ rows
        self._query_second += torch.einsum("bhsi,bhsj->hij", q, q)

        chosen = self._chosen(y.shape[-2])
        self._queries += y.shape[0] * len(chosen)
        scores, p = self._weights(q[:, :, chosen], k, chosen)
        mixed = p @ y[:, None]  # [B, H, N, C]
        self._mixed_sum += mixed.sum((0, 2))
        self._value_noise += p.square().sum((0, 2, 3))
        for head, root in enumerate(self._output_root):
            each = mixed[:, head].flatten(0, -2)
            self._values[head].addmm_(each.T, each)
            for sequence in range(len(y)):
                at = sequence, head
                self._observe_keys(head, scores[at], p[at], v[at] @ root.T, y[sequence])
            storage.give_back(self._values[head])
            storage.give_back(self._keys[head])

    def _observe_keys(self, head: int, scores: Tensor, p: Tensor, u: Tensor, y: Tensor) -> None:
        """Of one head in one sequence: ``scores, p [N, S]``, ``u [S, D]`` the values as the output sees them, ``y``."""
        # Σ_j p_j u_j (y_j − ȳ) = Σ_j p_j (u_j − ū) y_j
        apart = u[None] - (p @ u)[:, None]  # [N, S, D]
        weighted = p[:, :, None] * apart
        self._key_noise[head] += float(weighted.square().sum())
        self._together[head] += float((weighted.transpose(-1, -2) @ scores[:, :, None]).square().sum())
        # The sum of C_tᵀ C_t is Aᵀ A with A = R y, or yᵀ (Rᵀ R) y: through whichever of the two is the smaller one.
        rows = weighted.transpose(-1, -2).flatten(0, 1)  # R [N·D, S]
        if len(rows) > len(y):
            self._keys[head].addmm_(y.T, (rows.T @ rows) @ y)
        else:
            derivative = rows @ y
            self._keys[head].addmm_(derivative.T, derivative)

    def _chosen(self, length: int) -> Tensor:
        first = min(_FIRST, length // 2)
        return first + torch.randperm(length - first, generator=self._generator)[: self._positions]

    def _weights(self, q: Tensor, k: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """The scores of these queries ``[B, H, N, D]``, and what softmax makes of them: ``[B, H, N, S]``."""
        columns, window = torch.arange(k.shape[-2]), self._record.window
        seen = columns <= positions[:, None]
        if window is not None:
            seen &= columns > positions[:, None] - window
        scores = q @ k.transpose(-1, -2) * self._record.scale
        return scores, scores.masked_fill(~seen, -torch.inf).softmax(-1)


def zeros(*shape: int) -> Tensor:
    return torch.zeros(shape, dtype=torch.float64)
