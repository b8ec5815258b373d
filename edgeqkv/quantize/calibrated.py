"""GPTQ on calibration text: each rounding error is made up for by the weights that are still to be rounded.

Frantar et al., *GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers* (2022).

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
from dataclasses import dataclass, replace
from functools import cached_property
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
from edgeqkv.quantize.nearest import quantized, round_to, rounded, row_scales, scales_of
from edgeqkv.quantize.palettized import k_means, palettized, places
from edgeqkv.reference.ops import TorchOps

__all__ = ["Inputs", "calibrate", "gptq"]

M = TypeVar("M", bound=Model)

Tensor = torch.Tensor

# Added to the diagonal of the second moments, as a part of its mean: keeps the inverse sane where an input channel
# hardly varies. A tenth of the paper's: with tens of thousands of samples for at most a few thousand channels the
# moments are well known, and more damping only brings the result closer to rounding.
_DAMPING = 0.001

# The same for the least squares by which a matrix makes up for the layers before it, where less would fit the noise of
# the samples. Chosen on text that no figure is reported on, as is the number of sequences.
_CORRECTION_DAMPING = 0.1

# Of up to 512 tokens each: tens of thousands of samples. The demo model loses little with a thirtieth of them, four to
# a column.
_MOST_SEQUENCES = 128

# What the widest layer's inputs may take, which are in memory three times (a gated MLP's two parts and their product),
# and in both halves of the batch.
_MOST_BYTES, _COPIES = 1_500_000_000, 6

_SEQUENCES_AT_ONCE = 4

# Of a palettized matrix, whose columns are in no blocks.
_COLUMNS_AT_ONCE = 128

# A block's scale is searched below the one that fits its largest value: clipping that one can round the rest better.
_SHRINK = torch.linspace(0.7, 1.0, 13)

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
    done = _tables(model, plan, _final_states(model, ids, on_progress))
    model.network.outputs(_CalibratingOps(plan, done, on_progress), torch.cat([ids, ids]))

    def change(weight: Weight) -> Weight:
        chosen = plan[weight]
        return weight.with_precision(chosen) if isinstance(chosen, str) else done[weight]

    return model.with_changed_weights(change)


def _that_fit(model: Model, length: int) -> int:
    """Of how many sequences the widest layer's inputs fit into the memory that they may take; at least one."""
    widest = max(linear.weight.shape[1] for linear in walk.linears(model.network.blocks))
    return max(1, _MOST_BYTES // (_COPIES * 4 * widest * length))


def _final_states(model: Model, ids: Tensor, on_progress: Progress) -> Tensor:
    """What the head sees, ``[samples, C]``, in the original model.

    The table comes first in the computation and last, so that its inputs as a head cannot wait for the layers
    between to be quantized.
    """
    states: Tensor = model.network.outputs(_FinalStatesOps(), ids)
    return states.flatten(0, -2)


def _tables(
    model: Model, plan: dict[Weight, Scheme | Palette | str], x: Tensor
) -> dict[Weight, QuantizedWeight | PalettizedWeight]:
    """The embedding and the head: one table that is good at both, or two."""
    embedding, head = model.network.token_table, model.network.head
    scheme = plan.get(head)
    if scheme is None or isinstance(scheme, str):
        return {}
    # A row of an embedding stands for itself: nothing can make up for its errors.
    others = {
        table: rounded(table, chosen)
        for table in model.network.token_tables
        if table is not head and not isinstance(chosen := plan[table], str)
    }
    alike = float(_EMBEDDING_SHARE * x.square().sum() / x.shape[1]) if head is embedding else 0.0
    return {**others, head: gptq(head, Inputs(x, alike=alike), scheme)}


@dataclass(frozen=True)
class Inputs:
    """What a matrix is multiplied by when it is calibrated.

    Attributes:
        x: as the quantized layers before it produce it, ``[samples, columns]``.
        wanted: what the original is given in the same places; None: the same.
        alike: what every column counts besides, as a sum of squares.
    """

    x: Tensor
    wanted: Tensor | None = None
    alike: float = 0.0

    @cached_property
    def moments(self) -> Tensor:
        """``[columns, columns]``, float64: those of few samples are nearly singular."""
        moments = (self.x.T @ self.x).double()
        moments.diagonal().add_(self.alike)
        return moments

    @cached_property
    def spread(self) -> Tensor:
        """How an error in one column is best made up for in later ones: the Cholesky factor of the inverse moments.

        ``[columns, columns]``, upper triangular.
        """
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(_damped(self.moments, _DAMPING)))
        factor: Tensor = torch.linalg.cholesky(inverse, upper=True)
        return factor.float()

    @cached_property
    def correction(self) -> Tensor | None:
        """``[columns, columns]``: of a matrix W, W + W · this makes of ``x`` what comes closest to W · ``wanted``."""
        if self.wanted is None:
            return None
        missing = ((self.wanted - self.x).T @ self.x).double()
        factor = torch.linalg.cholesky(_damped(self.moments, _CORRECTION_DAMPING))
        return torch.cholesky_solve(missing.T, factor).T.float()

    def target(self, weight: Weight) -> Tensor:
        """The matrix that is to be rounded, in float32 and for the taking."""
        values = weight.tensor.float().clone(memory_format=torch.contiguous_format)
        return values if self.correction is None else torch.addmm(values, values, self.correction)


def _damped(moments: Tensor, damping: float) -> Tensor:
    mean = moments.diagonal().mean()
    return moments + (damping * mean if mean else 1.0) * torch.eye(len(moments))  # of inputs that are zero, any will do


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
            return TorchOps.linear(self, part, replace(linear, weight=weight))

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
        self.done[weight] = gptq(weight, self._inputs(x), scheme)

    def _inputs(self, x: Tensor) -> Inputs:
        """What several matrices read, as queries and keys do, is looked at once."""
        if self._seen is None or self._seen[0] is not x:
            wanted, own = x.chunk(2)
            self._seen = x, Inputs(own.flatten(0, -2), wanted.flatten(0, -2))
        return self._seen[1]


def gptq(weight: Weight, seen: Inputs, way: Scheme | Palette) -> QuantizedWeight | PalettizedWeight:
    """Quantize a matrix so that its product with what is seen comes close to what is wanted."""
    return _with_scales(weight, seen, way) if isinstance(way, Scheme) else _with_tables(weight, seen, way)


def _with_scales(weight: Weight, seen: Inputs, scheme: Scheme) -> QuantizedWeight:
    """Each block's scale is chosen when its turn comes; a whole row's at once, before any of it has changed."""
    rows, columns = weight.shape
    codes = torch.empty(rows, columns, dtype=torch.int8)
    scales = torch.empty(rows, columns // scheme.block)
    target = seen.target(weight)
    of_rows = row_scales(target, scheme)
    step = min(scheme.block, _COLUMNS_AT_ONCE)
    if step < scheme.block:
        assert scheme.block == columns, "scales are for blocks that are done at once, or for whole rows"
        scales[:, 0] = _best_scales(target, scheme)

    def stored(values: Tensor, column: int, block: Tensor) -> Tensor:
        scale = scales[:, column // scheme.block]
        if column % scheme.block == 0 and step == scheme.block:
            scale.copy_(_best_scales(block, scheme, of_rows))
        codes[:, column] = round_to(values, scale, scheme)
        return codes[:, column] * scale

    _compensated(target, seen.spread, step, stored)
    return quantized(weight, codes, scales, scheme, of_rows)


def _with_tables(weight: Weight, seen: Inputs, palette: Palette) -> PalettizedWeight:
    """The tables are those of the matrix as it is: columns to come share them."""
    target = seen.target(weight)
    tables = k_means(target, palette)
    codes = torch.empty(weight.shape, dtype=torch.uint8)

    def stored(values: Tensor, column: int, _: Tensor) -> Tensor:
        codes[:, column] = places(values, tables)
        return tables.gather(1, codes[:, column].view(len(tables), -1).long()).view(-1)

    _compensated(target, seen.spread, _COLUMNS_AT_ONCE, stored)
    return palettized(weight, codes, tables, palette)


def _compensated(left: Tensor, spread: Tensor, block: int, stored: Callable[[Tensor, int, Tensor], Tensor]) -> None:
    """Round columns one after the other, and spread each error over the columns to come.

    Args:
        left: the matrix; what is left of it is written over it.
        spread: `Inputs.spread`.
        block: columns after which the errors reach those beyond the block, all at once.
        stored: given a column's values, its index and what is left of its block, the values that stand for it.
    """
    rows, columns = left.shape
    for start in range(0, columns, block):
        stop = min(start + block, columns)
        part, errors = left[:, start:stop], torch.empty(rows, stop - start)
        for at in range(start, stop):
            values = part[:, at - start]
            errors[:, at - start] = (values - stored(values, at, part)) / spread[at, at]
            part[:, at - start :] -= errors[:, at - start, None] * spread[at, at:stop]
        left[:, stop:] -= errors @ spread[start:stop, stop:]


def _best_scales(block: Tensor, scheme: Scheme, of_rows: Tensor | None = None) -> Tensor:
    """``[rows]``: of some scales below the fitting one, that with the least squared rounding error.

    Where they are multiples of the rows', these are all that are tried.
    """
    largest = block.abs().amax(-1)
    best, least = torch.empty_like(largest), torch.full_like(largest, torch.inf)
    tried = (
        (scales_of(largest * shrink, scheme) for shrink in _SHRINK)
        if of_rows is None
        else (of_rows * multiple for multiple in range(1, scheme.multiples + 1))
    )
    for scales in tried:  # one after the other: all at once would take as many times the block's memory
        error = (round_to(block, scales[:, None], scheme) * scales[:, None] - block).square().sum(-1)
        better = error < least
        best, least = torch.where(better, scales, best), torch.where(better, error, least)
    return best
