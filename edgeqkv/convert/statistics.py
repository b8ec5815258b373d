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

from dataclasses import dataclass

import torch

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
        keys: ``[H, C, C]``, how an error of keys counts.
        values: ``[H, C, C]``, how an error of values counts: the covariance of ``ȳ``.
        value_means: ``[H, C]``, of ``ȳ``.
        key_noise, value_noise: ``[H]``, how an error counts that is another for every position, such as rounding:
            means of ``Σ_j p_j² |W_o (v_j − v̄)|²`` and of ``Σ_j p_j²``.
    """

    mean: Tensor
    covariance: Tensor
    queries: Tensor
    keys: Tensor
    values: Tensor
    value_means: Tensor
    key_noise: Tensor
    value_noise: Tensor


class ObservingOps(TorchOps):
    """Computes a batch of sequences, and sums up what one attention layer does.

    Args:
        attention: the layer that is looked at; others are only computed.
        positions: how many queries of each sequence are looked at, chosen at random.
        generator: of the choice.
    """

    def __init__(self, attention: Attention, positions: int, generator: torch.Generator) -> None:
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
        self._keys = torch.zeros(heads.query, width, width)
        self._values = torch.zeros(heads.query, width, width)
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
        """What was seen."""
        mean = self._sum / self._rows
        mixed = self._mixed_sum / self._queries
        covariance, values = self._second / self._rows, self._values / self._queries
        if self._centred:
            covariance -= torch.outer(mean, mean)
            values -= (mixed[:, :, None] * mixed[:, None, :]).float()
        else:
            mean, mixed = torch.zeros_like(mean), torch.zeros_like(mixed)
        queries, keys = self._query_second * self._record.scale**2 / self._rows, self._keys / self._queries
        keys *= self._correlation(queries, keys)[:, None, None]
        return LayerStatistics(
            mean=mean,
            covariance=covariance,
            queries=queries,
            keys=keys,
            values=values,
            value_means=mixed,
            key_noise=self._key_noise / self._queries,
            value_noise=self._value_noise / self._queries,
        )

    def _correlation(self, queries: Tensor, keys: Tensor) -> Tensor:
        """``[H]``: how much more an error in proportion to the keys counts than the two means say."""
        query, kv, dim = self._record.heads
        weights = self._record.k.weight.values().view(kv, dim, -1).repeat_interleave(query // kv, dim=0)
        apart = ((weights @ keys @ weights.transpose(-1, -2)).double() * queries).sum((1, 2))
        return (self._together / self._queries / apart.clamp_min(torch.finfo(torch.float64).tiny)).float()

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

    def _observe_keys(self, head: int, scores: Tensor, p: Tensor, u: Tensor, y: Tensor) -> None:
        """Of one head in one sequence: ``scores, p [N, S]``, ``u [S, D]`` the values as the output sees them, ``y``."""
        # Σ_j p_j u_j (y_j − ȳ) = Σ_j p_j (u_j − ū) y_j
        apart = u[None] - (p @ u)[:, None]  # [N, S, D]
        weighted = p[:, :, None] * apart
        self._key_noise[head] += float(weighted.square().sum())
        self._together[head] += float((weighted.transpose(-1, -2) @ scores[:, :, None]).square().sum())
        derivative = (weighted.transpose(-1, -2).flatten(0, 1)) @ y  # [N·D, C]
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
