"""GPTQ on calibration text: each rounding error is made up for by the weights that are still to be rounded.

Frantar et al., *GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers* (2022).

The whole calibration is one more interpretation of the model. Running it on text, `linear` sees its own input, knows
from it which errors matter, quantizes its matrix there and then, and goes on with the quantized one: so that every
layer is calibrated on what the quantized layers before it really produce, in a single pass.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from edgeqkv.model import Model
from edgeqkv.models.decoder import decode
from edgeqkv.models.layers import Linear
from edgeqkv.progress import Report
from edgeqkv.quantize.nearest import nearest, quantized, round_to, scales_of
from edgeqkv.quantize.stacked import StackedOps
from edgeqkv.weights import QuantizedWeight, Scheme, Weight

__all__ = ["calibrate", "gptq"]

Tensor = torch.Tensor

# Added to the diagonal of the second moments, as a part of its mean: keeps the inverse sane where an input channel
# hardly varies. A tenth of the paper's: with tens of thousands of samples for at most a few thousand channels the
# moments are well known, and more damping only brings the result closer to rounding.
_DAMPING = 0.001

# Of up to 512 tokens each: tens of thousands of samples, whose activations are in memory at the same time.
_MOST_SEQUENCES = 128

# A block's scale is searched below the one that fits its largest value: clipping that one can round the rest better.
_SHRINK = torch.linspace(0.7, 1.0, 13)

# How much a tied table's use as an embedding counts against its use as the head, when its errors are weighed. There
# every channel counts alike. Measured on the demo model: 0.1 is better than rounding (∞) and than the head alone (0).
_EMBEDDING_SHARE = 0.1


@torch.no_grad()
def calibrate(model: Model, plan: dict[Weight, Scheme | str], tokens: npt.NDArray[np.int64], report: Report) -> Model:
    """Quantize a model with GPTQ.

    Args:
        model: the original.
        plan: what becomes of each weight: a scheme, or a floating-point precision.
        tokens: calibration text, ``[sequences, length]`` token ids; some of them, spread over it, are enough.
        report: told of the progress.
    """
    spread = np.linspace(0, len(tokens) - 1, min(len(tokens), _MOST_SEQUENCES)).astype(np.int64)
    tokens = tokens[spread]
    ids = torch.from_numpy(tokens.reshape(-1))
    done = _tables(model, plan, _final_states(model, ids, tokens.shape, report))
    ops = _CalibratingOps(plan, done, tokens.shape, report)
    decode(ops, model.network, ids)

    def change(weight: Weight) -> Weight:
        chosen = plan[weight]
        return weight.with_precision(chosen) if isinstance(chosen, str) else done[weight]

    return model.with_changed_weights(change)


def _final_states(model: Model, ids: Tensor, shape: tuple[int, ...], report: Report) -> Tensor:
    """What the head sees, ``[samples, C]``, in the original model.

    The table comes first in the computation and last, so that its inputs as a head cannot wait for the layers
    between to be quantized.
    """
    ops = _CalibratingOps({}, {}, shape, report)
    return decode(ops, model.network, ids)


def _tables(model: Model, plan: dict[Weight, Scheme | str], x: Tensor) -> dict[Weight, QuantizedWeight]:
    """The embedding and the head: one table that is good at both, or two."""
    embedding, head = model.network.token_table, model.network.head
    scheme = plan.get(head)
    if not isinstance(scheme, Scheme):
        return {}
    if head is not embedding:  # a row of an embedding stands for itself: nothing can make up for its errors
        return {embedding: nearest(embedding, scheme), head: gptq(head, x, scheme)}
    strength = (_EMBEDDING_SHARE * x.square().sum() / x.shape[1]).sqrt()
    return {head: gptq(head, torch.cat([x, strength * torch.eye(x.shape[1])]), scheme)}


class _CalibratingOps(StackedOps):
    """Quantizes what it meets, and goes on with that."""

    def __init__(
        self,
        plan: dict[Weight, Scheme | str],
        done: dict[Weight, QuantizedWeight],
        shape: tuple[int, ...],
        report: Report,
    ) -> None:
        super().__init__(shape)
        self.plan = plan
        self.done = done
        self.report = report

    def values(self, weight: Weight) -> Tensor:
        return self.done[weight].values() if weight in self.done else super().values(weight)

    def linear(self, x: Tensor, linear: Linear) -> Tensor:
        self._quantize(linear.weight, x)
        return super().linear(x, linear)

    def logits(self, x: Tensor, table: Weight) -> Tensor:
        return x  # nobody asks for the logits of the calibration text

    def _quantize(self, weight: Weight, x: Tensor) -> None:
        scheme = self.plan.get(weight)
        if weight in self.done or not isinstance(scheme, Scheme):
            return
        self.report("calibrating", len(self.done) / len(self.plan))
        self.done[weight] = gptq(weight, x, scheme)
        weight.release_pages()


def gptq(weight: Weight, x: Tensor, scheme: Scheme) -> QuantizedWeight:
    """Quantize a matrix so that its product with ``x [samples, columns]`` changes little.

    Columns are rounded one after the other; each error is spread over the columns to come, by the inverse second
    moments of the inputs, and each block's scale is chosen when its turn comes.
    """
    rows, columns = weight.shape
    left = weight.tensor.float().clone()
    spread = _error_spread(x)
    codes = torch.empty(rows, columns, dtype=torch.int8)
    scales = torch.empty(rows, columns // scheme.block)
    for start in range(0, columns, scheme.block):
        stop = start + scheme.block
        block, errors = left[:, start:stop], torch.empty(rows, scheme.block)
        scale = _best_scales(block, scheme)
        scales[:, start // scheme.block] = scale
        for column in range(scheme.block):
            at = start + column
            values = block[:, column]
            codes[:, at] = round_to(values, scale, scheme)
            errors[:, column] = (values - codes[:, at] * scale) / spread[at, at]
            block[:, column:] -= errors[:, column, None] * spread[at, at:stop]
        left[:, stop:] -= errors @ spread[start:stop, stop:]
    return quantized(weight, codes, scales, scheme)


def _error_spread(x: Tensor) -> Tensor:
    """How an error in one column is best made up for in later ones: the Cholesky factor of the inverse moments.

    ``[columns, columns]``, upper triangular; in float64, because the moments of few samples are nearly singular.
    """
    moments = (x.T @ x).double()
    moments.diagonal().add_(_DAMPING * moments.diagonal().mean().clamp_min(1e-12))
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(moments))
    factor: Tensor = torch.linalg.cholesky(inverse, upper=True)
    return factor.float()


def _best_scales(block: Tensor, scheme: Scheme) -> Tensor:
    """``[rows]``: of some scales below the fitting one, that with the least squared rounding error."""
    largest = block.abs().amax(-1)
    candidates = scales_of(largest[None] * _SHRINK[:, None], scheme)
    rounded = round_to(block[None], candidates[:, :, None], scheme) * candidates[:, :, None]
    best = (rounded - block[None]).square().sum(-1).argmin(0)
    return candidates.gather(0, best[None])[0]
