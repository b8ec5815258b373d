"""The interpreter that watches: the ranges of everything that a model computes, on inputs that are given.

A causal model is run on whole sequences. That computes what prefill and decode compute, at every position and with
exactly the scores that a token may see: chunks change nothing but the order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from edgeqkv.model.activations import ActivationRanges, Sites
from edgeqkv.model.layers import Activation, Attention, Linear, Norm
from edgeqkv.model.model import Model
from edgeqkv.model.weights import Weight
from edgeqkv.progress import Progress, silent
from edgeqkv.reference.ops import SequenceOps

__all__ = ["observe", "sequences_of"]

Tensor = torch.Tensor

_MOST_TOKENS = 32 * 512  # bounds the time
_SCORES_AT_ONCE = 64  # rows of the score matrix


def sequences_of(tokens: npt.NDArray[np.int64], context: int) -> list[npt.NDArray[np.int64]]:
    """Tokens ``[n, length]`` as sequences that fill the context, so that every position is seen; some, spread evenly.

    The last one is shorter where there are too few tokens.
    """
    flat = tokens.reshape(-1)
    whole = [flat[start : start + context] for start in range(0, len(flat), context)]
    if len(whole) > 1 and len(whole[-1]) < context:
        whole.pop()
    count = min(len(whole), max(1, _MOST_TOKENS // context))
    return [whole[index] for index in np.linspace(0, len(whole) - 1, count).astype(np.int64)]


@torch.inference_mode()
def observe(model: Model, inputs: Sequence[npt.NDArray[Any]], on_progress: Progress = silent) -> ActivationRanges:
    """The ranges of a model's activations.

    Args:
        model: the model as it is stored: what rounds its weights and its state counts.
        inputs: sequences of token ids ``[n]`` of a decoder, or batches ``[batch, …]`` of an encoder.
        on_progress: told of the progress.
    """
    found: dict[str, tuple[float, float]] = {}
    for index, given in enumerate(inputs):
        on_progress("observing activations", index / len(inputs))
        ops = _ObservingOps(found, model)
        model.network.outputs(ops, ops.saw("input", torch.from_numpy(np.ascontiguousarray(given))))
        ops.release()
    return ActivationRanges(found)


class _ObservingOps(SequenceOps):
    """Computes whole inputs, and remembers how far each result reaches."""

    def __init__(self, found: dict[str, tuple[float, float]], model: Model) -> None:
        super().__init__((), model.state_scales)
        self.rows = None
        self._found = found
        self._sites = Sites()

    def saw(self, site: str, x: Tensor) -> Tensor:
        """Note how far ``x`` reaches."""
        if x.numel():
            low, high = (float(end) for end in x.aminmax())
            least, most = self._found.get(site, (low, high))
            self._found[site] = min(low, least), max(high, most)
        return x

    def _next(self, word: str, x: Tensor) -> Tensor:
        return self.saw(self._sites.next(word), x)

    def embedding(self, ids: Tensor, table: Weight) -> Tensor:
        return self._next("embedding", super().embedding(ids, table))

    def add_positions(self, x: Tensor, table: Weight) -> Tensor:
        return self._next("add_positions", super().add_positions(x, table))

    def norm(self, x: Tensor, norm: Norm) -> Tensor:
        site = self._sites.next("norm")
        self.saw(f"{site}.centred", x - x.mean(-1, keepdim=True))
        self.saw(f"{site}.plain", super().norm(x, replace(norm, scale=None, bias=None)))
        return self.saw(site, super().norm(x, norm))

    def linear(self, x: Tensor, linear: Linear) -> Tensor:
        return self._next("linear", super().linear(x, linear))

    def activation(self, x: Tensor, kind: Activation) -> Tensor:
        return self._next(kind, super().activation(x, kind))

    def add(self, x: Tensor, y: Tensor) -> Tensor:
        return self._next("add", super().add(x, y))

    def multiply(self, x: Tensor, y: Tensor) -> Tensor:
        return self._next("multiply", super().multiply(x, y))

    def prepend(self, x: Tensor, row: Weight) -> Tensor:
        return self._next("prepend", super().prepend(x, row))

    def logits(self, x: Tensor, table: Weight) -> Tensor:
        return self._next("logits", super().logits(x, table))

    def attention(self, layer: int, q: Tensor, k: Tensor, v: Tensor, attention: Attention) -> Tensor:
        site = self._sites.next("attention")
        heads = attention.heads
        queries, keys = (x.view(*x.shape[:-1], -1, heads.dim).transpose(-2, -3) for x in (q, k))
        queries = self.saw(f"{site}.queries", queries * attention.scale)
        self.saw(f"{site}.keys", k)
        self.saw(f"{site}.values", v)
        repeated = keys.repeat_interleave(heads.query // heads.kv, dim=-3)
        bias = None if attention.term is None else self.values(attention.term.bias)
        for start in range(0, queries.shape[-2], _SCORES_AT_ONCE):
            some = queries[..., start : start + _SCORES_AT_ONCE, :]
            scores = some @ repeated.transpose(-1, -2)
            rows = torch.arange(start, start + some.shape[-2])[:, None]
            seen = torch.arange(scores.shape[-1]) <= rows if attention.causal else torch.tensor(True)
            self.saw(f"{site}.products", scores[seen.expand_as(scores)])
            if attention.term is not None and bias is not None:
                scores = scores * attention.term.scale + bias[start : start + some.shape[-2]]
            self.saw(f"{site}.scores", scores[seen.expand_as(scores)])
        return self.saw(site, super().attention(layer, q, k, v, attention))
