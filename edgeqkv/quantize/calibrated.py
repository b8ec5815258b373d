"""Calibration: every matrix is rounded (`edgeqkv.quantize.gptq`) as it suits what it is multiplied by on a text.

The whole calibration is one more interpretation of the model. Running it on text, `linear` sees its own input, knows
from it which errors matter, quantizes its matrix there and then, and goes on with the quantized one: so that every
layer is calibrated on what the quantized layers before it really produce, in a single pass.

The original runs along, in the other half of the batch. What a layer is to produce is the original's output, not what
its own matrix would make of an input that is no longer the original's: before a matrix is rounded it is replaced by the
one that comes closest to that, by least squares, and so makes up for the layers before it (Li et al., *GPTAQ: Efficient
Finetuning-Free Quantization for Asymmetric Calibration*, 2025, arXiv 2504.02692, has the same aim column by column).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch

from edgeqkv.model import walk
from edgeqkv.model.layers import Attention, Linear
from edgeqkv.model.model import Model
from edgeqkv.model.schemes import Palette, Scheme
from edgeqkv.model.weights import PalettizedWeight, QuantizedWeight, Weight
from edgeqkv.progress import Progress
from edgeqkv.quantize.activations import as_multiplied, scheme_of
from edgeqkv.quantize.gptq import gptq
from edgeqkv.quantize.inputs import Inputs
from edgeqkv.quantize.nearest import rounded
from edgeqkv.reference.ops import TorchOps

__all__ = ["calibrate"]

M = TypeVar("M", bound=Model)

Tensor = torch.Tensor

# Of up to 512 tokens each: tens of thousands of samples. The demo model loses little with a thirtieth of them, four to
# a column.
_MOST_SEQUENCES = 128

# What the widest layer's inputs may take, which are in memory three times (a gated MLP's two parts and their product),
# and in both halves of the batch.
_MOST_BYTES, _COPIES = 1_500_000_000, 6

_SEQUENCES_AT_ONCE = 4

# Rounding to more costs next to nothing, and a whole pass through the original for it would be a third of all.
_MOST_BITS_OF_A_CALIBRATED_HEAD = 4

# How much a tied table's use as an embedding counts against its use as the head, when its errors are weighed. There
# every channel counts alike. Measured on the demo model: 0.1 is better than rounding (∞) and than the head alone (0).
_EMBEDDING_SHARE = 0.1


@torch.no_grad()
def calibrate(
    model: M, plan: dict[Weight, Scheme | Palette | str], tokens: npt.NDArray[np.int64], on_progress: Progress
) -> M:
    """Quantize a model with GPTQ.

    Args:
        model: the original.
        plan: what becomes of each weight: a scheme, or a floating-point precision.
        tokens: calibration text, ``[sequences, length]`` token ids; some of them, spread over it, are enough.
        on_progress: told of the progress.
    """
    most = min(len(tokens), _MOST_SEQUENCES, _that_fit(model, tokens.shape[1]))
    ids = torch.from_numpy(tokens[np.linspace(0, len(tokens) - 1, most).astype(np.int64)])
    done = _tables(model, plan, ids)
    model.network.outputs(_CalibratingOps(plan, done, on_progress), torch.cat([ids, ids]))

    def change(weight: Weight) -> Weight:
        chosen = plan[weight]
        return weight.with_precision(chosen) if isinstance(chosen, str) else done[weight]

    return model.with_changed_weights(change)


def _that_fit(model: Model, length: int) -> int:
    """Of how many sequences the widest layer's inputs fit into the memory that they may take; at least one."""
    widest = max(linear.weight.shape[1] for linear in walk.linears(model.network.blocks))
    return max(1, _MOST_BYTES // (_COPIES * 4 * widest * length))


def _tables(
    model: Model, plan: dict[Weight, Scheme | Palette | str], ids: Tensor
) -> dict[Weight, QuantizedWeight | PalettizedWeight]:
    """The embedding and the head: one table that is good at both, or two.

    They come first in the computation and last, so that the inputs of the head cannot wait for the layers between to be
    quantized: they are the original's. A row of an embedding stands for itself: nothing can make up for its errors.
    """
    head = model.network.head
    tables = {each: way for each in model.network.token_tables if not isinstance(way := plan[each], str)}
    done = {table: rounded(table, way) for table, way in tables.items() if table is not head}
    chosen = plan.get(head)
    if chosen is None or isinstance(chosen, str):
        return done
    if chosen.bits > _MOST_BITS_OF_A_CALIBRATED_HEAD:
        return {**done, head: rounded(head, chosen)}
    states: Tensor = model.network.outputs(_FinalStatesOps(), ids)
    x = states.flatten(0, -2)  # [samples, C]
    alike = float(_EMBEDDING_SHARE * x.square().sum() / x.shape[1]) if head in tables else 0.0
    return {**done, head: gptq(head, Inputs(x, alike=alike), chosen)}


class _FinalStatesOps(TorchOps):
    """Stops before the head; scores, a square of each sequence's length a head, are in memory for a few at a time."""

    def attention(self, layer: int, q: Tensor, k: Tensor, v: Tensor, attention: Attention) -> Tensor:
        mixed = []
        for start in range(0, len(q), _SEQUENCES_AT_ONCE):
            some = slice(start, start + _SEQUENCES_AT_ONCE)
            keys = k[some]
            mixed.append(super().attention(layer, q[some], keys, keys if v is k else v[some], attention))
        return torch.cat(mixed)

    def logits(self, x: Tensor, table: Weight) -> Tensor:
        return x

    def softcap(self, x: Tensor, cap: float) -> Tensor:
        return x  # logits are all that a network caps itself


class _CalibratingOps(_FinalStatesOps):
    """Quantizes what it meets, and goes on with that in the batch's second half, beside the original in the first."""

    def __init__(
        self,
        plan: dict[Weight, Scheme | Palette | str],
        done: dict[Weight, QuantizedWeight | PalettizedWeight],
        on_progress: Progress,
    ) -> None:
        self.plan = plan
        self.done = done
        self.on_progress = on_progress
        self._seen: tuple[Tensor, Inputs] | None = None

    def embedding(self, ids: Tensor, table: Weight) -> Tensor:
        return self._both(ids, table, super().embedding)

    def linear(self, x: Tensor, linear: Linear) -> Tensor:
        self._quantize(linear.weight, x)

        def product(part: Tensor, weight: Weight) -> Tensor:
            return TorchOps.linear(self, as_multiplied(part, scheme_of(weight)), replace(linear, weight=weight))

        result = self._both(x, linear.weight, product)
        linear.weight.release_pages()  # not before the original has multiplied by it, too
        return result

    def _both(self, x: Tensor, weight: Weight, product: Callable[[Tensor, Weight], Tensor]) -> Tensor:
        original, own = x.chunk(2)
        return torch.cat([product(original, weight), product(own, self.done.get(weight, weight))])

    def _quantize(self, weight: Weight, x: Tensor) -> None:
        scheme = self.plan.get(weight)
        if weight in self.done or scheme is None or isinstance(scheme, str):
            return
        self.on_progress("calibrating", len(self.done) / len(self.plan))
        self.done[weight] = gptq(weight, self._inputs(x, scheme), scheme)

    def _inputs(self, x: Tensor, scheme: Scheme | Palette) -> Inputs:
        """What several matrices read, as queries and keys do, is looked at once; all of them round it alike."""
        if self._seen is None or self._seen[0] is not x:
            wanted, own = x.chunk(2)
            self._seen = x, Inputs(as_multiplied(own.flatten(0, -2), scheme), wanted.flatten(0, -2))
        return self._seen[1]
