"""Tuning end to end: a calibrated model learns to give the original's logits.

GPTQ makes each product good for itself. What the products do to each other is left, and is made up for here: codes,
scales and what is not quantized are trained together, so that the next token's distribution comes closer to the
original's (the Kullback-Leibler divergence; Liu et al., *LLM-QAT*, 2023, arXiv 2305.17888). The text's own tokens are
no target: nothing is learned from them but where to compare. Gradients pass rounding as if it were not there (Bengio
et al. 2013, arXiv 1308.3432), so that what is trained is always what will be stored.

On the demo model, training the scales and the rest alone (Chen et al., *EfficientQAT*, 2024, arXiv 2407.11062) took
away 4 tenths of the divergence that GPTQ leaves, training the codes too 5 tenths.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from math import cos, pi
from typing import Final, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from edgeqkv.model.dtypes import Dtype
from edgeqkv.model.layers import Linear
from edgeqkv.model.model import Model
from edgeqkv.model.weights import PalettizedWeight, QuantizedWeight, Weight
from edgeqkv.progress import Progress
from edgeqkv.quantize.activations import as_multiplied, scheme_of
from edgeqkv.quantize.nearest import quantized, representable
from edgeqkv.quantize.palettized import as_stored, palettized, places
from edgeqkv.reference.ops import TorchOps

__all__ = ["tune"]

M = TypeVar("M", bound=Model)

Tensor = torch.Tensor

_SEED = 20261122
_BATCH: Final = 4  # sequences a step

# How far a step goes at most (Adam), as a part of what a block's highest code stands for; of a scale; of a number
# that is not quantized, where norms' scales are about 1. Chosen on text of the demo model's training that the tuning
# did not see.
_CODES_RATE, _SCALES_RATE, _NUMBERS_RATE = 3e-3, 2e-3, 5e-4

_WARMUP = 20  # steps until Adam knows how gradients vary

# Scales of int8 have 4 binary digits: a step from one to the next changes a block by up to an eighth. Its codes are
# fine enough to do without.
_BITS_WHOSE_SCALES_LEARN = 4


def tune(original: M, calibrated: M, tokens: npt.NDArray[np.int64], steps: int, on_progress: Progress) -> M:
    """Train a quantized model to do what the original does.

    Takes some 20 bytes of memory a parameter, and the activations of 2048 tokens, which are the larger part: 0.65 GB
    were measured at 8 M parameters, 1.5 GB at 24 M. The same number of threads on the same machine gives the same
    weights again.

    Args:
        original: the model as it was trained.
        calibrated: the same model, quantized.
        tokens: text to compare them on, ``[sequences, length]`` token ids.
        steps: how often to compare and correct, on four sequences each.
        on_progress: told of the progress.
    """
    trained = {weight: _trained(weight) for weight in calibrated.weights}
    groups = [group for part in trained.values() for group in part.groups()]
    optimizer = torch.optim.Adam(groups, betas=(0.9, 0.99))
    peaks = [group["lr"] for group in optimizer.param_groups]
    for step, batch in enumerate(_batches(torch.from_numpy(tokens), steps)):
        on_progress("tuning", step / steps)
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak * min(1.0, (step + 1) / _WARMUP) * (1 + cos(pi * step / steps)) / 2
        optimizer.zero_grad()
        _divergence(original, calibrated, trained, batch).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    with torch.no_grad():
        return calibrated.with_changed_weights(lambda weight: trained[weight].result())


def _batches(sequences: Tensor, steps: int) -> list[Tensor]:
    """Sequences in random order, all of them before any comes again."""
    generator = torch.Generator().manual_seed(_SEED)
    rounds = -(-steps * _BATCH // len(sequences))
    order = torch.cat([torch.randperm(len(sequences), generator=generator) for _ in range(max(1, rounds))])
    return [sequences[order[start : start + _BATCH]] for start in range(0, steps * _BATCH, _BATCH)]


def _divergence(original: Model, calibrated: Model, trained: Mapping[Weight, _Trained], batch: Tensor) -> Tensor:
    """Of the predicted distributions from the original's, in nats a token."""
    with torch.no_grad():
        wanted = F.log_softmax(original.network.outputs(TorchOps(), batch).flatten(0, 1), dim=-1)
    got = F.log_softmax(calibrated.network.outputs(_TunedOps(trained), batch).flatten(0, 1), dim=-1)
    return F.kl_div(got, wanted, log_target=True, reduction="batchmean")


class _TunedOps(TorchOps):
    """Computes with the numbers that are being trained, and rounds what the target rounds."""

    def __init__(self, trained: Mapping[Weight, _Trained]) -> None:
        self._trained = trained
        self._values: dict[Weight, Tensor] = {}

    def linear(self, x: Tensor, linear: Linear) -> Tensor:
        return super().linear(as_multiplied(x, scheme_of(linear.weight)), linear)

    def logits(self, x: Tensor, table: Weight) -> Tensor:
        return super().logits(as_multiplied(x, scheme_of(table)), table)

    def values(self, weight: Weight) -> Tensor:
        if weight not in self._values:  # a tied table is asked for twice
            self._values[weight] = self._trained[weight].values()
        return self._values[weight]


class _Trained(Protocol):
    """A weight in training."""

    def groups(self) -> list[dict[str, object]]:
        """What is trained, and how far a step may go, as an optimizer takes it."""

    def values(self) -> Tensor:
        """What it would mean if it were stored now, in float32."""

    def result(self) -> Weight:
        """What is to be stored."""


def _trained(weight: Weight) -> _Trained:
    match weight:
        case QuantizedWeight():
            return _Codes(weight)
        case PalettizedWeight():
            return _Places(weight)
        case _:
            return _Numbers(weight)


class _Numbers:
    """A weight that is stored in floating point."""

    def __init__(self, weight: Weight) -> None:
        self._weight = weight
        self._numbers = weight.values().clone().requires_grad_()

    def groups(self) -> list[dict[str, object]]:
        return [{"params": [self._numbers], "lr": _NUMBERS_RATE}]

    def values(self) -> Tensor:
        stored = Dtype(self._weight.precision).torch
        return _straight_through(self._numbers, lambda numbers: numbers.to(stored).float())

    def result(self) -> Weight:
        weight = replace(self._weight, tensor=self._numbers.detach())
        return weight.with_precision(weight.precision)  # which looks whether it still fits


class _Codes:
    """A quantized matrix: its codes as real numbers, and by what its scales are multiplied, as a logarithm."""

    def __init__(self, weight: QuantizedWeight) -> None:
        self._weight = weight
        self._codes = weight.codes.float().requires_grad_()
        self._growth = torch.zeros_like(weight.scales)
        self._learns_scales = weight.scheme.bits <= _BITS_WHOSE_SCALES_LEARN
        self._growth.requires_grad_(self._learns_scales)

    def groups(self) -> list[dict[str, object]]:
        codes: dict[str, object] = {"params": [self._codes], "lr": _CODES_RATE * self._weight.scheme.highest}
        return [codes, {"params": [self._growth], "lr": _SCALES_RATE}] if self._learns_scales else [codes]

    def values(self) -> Tensor:
        rows, columns = self._codes.shape
        scheme = self._weight.scheme
        codes = _straight_through(self._codes, torch.round).clamp(scheme.lowest, scheme.highest)
        scales = _straight_through(self._grown(), self._representable)
        return (codes.view(rows, -1, scheme.block) * scales[:, :, None]).view(rows, columns)

    def result(self) -> Weight:
        scheme = self._weight.scheme
        scales = self._representable(self._grown())
        codes = self._codes.detach().clamp(scheme.lowest, scheme.highest)
        # What a backend rounds that cannot take these codes.
        meant = (codes.view(len(codes), -1, scheme.block) * scales[:, :, None]).view(codes.shape)
        weight = Weight(self._weight.name, meant)
        return quantized(weight, codes.round().to(torch.int8), scales, scheme, self._weight.row_scales)

    def _representable(self, scales: Tensor) -> Tensor:
        of_rows = self._weight.row_scales
        return representable(scales, self._weight.scheme, None if of_rows is None else of_rows[:, None])

    def _grown(self) -> Tensor:
        return self._weight.scales * self._growth.exp()


class _Places:
    """A palettized matrix: its tables, and the real numbers that are rounded to them, both as shifts.

    Shifts count in the largest magnitude of their table.
    """

    def __init__(self, weight: PalettizedWeight) -> None:
        self._weight = weight
        self._sizes = weight.tables.abs().amax(-1, keepdim=True)
        self._numbers = weight.values().view(len(weight.tables), -1)
        self._shifts = torch.zeros_like(self._numbers).requires_grad_()
        self._table_shifts = torch.zeros_like(weight.tables).requires_grad_()

    def groups(self) -> list[dict[str, object]]:
        return [
            {"params": [self._shifts], "lr": _CODES_RATE},
            {"params": [self._table_shifts], "lr": _SCALES_RATE},
        ]

    def values(self) -> Tensor:
        tables, numbers = self._tables(), self._moved()
        stored = _straight_through(tables, as_stored)
        # A table learns from all that is rounded to an entry of it, a number as if it were not rounded.
        found = stored.gather(1, places(numbers.detach(), as_stored(tables.detach())).long())
        return (found + numbers - numbers.detach()).view(self._weight.shape)

    def result(self) -> Weight:
        numbers, tables = self._moved().detach().view(self._weight.shape), as_stored(self._tables().detach())
        return palettized(Weight(self._weight.name, numbers), places(numbers, tables), tables, self._weight.palette)

    def _moved(self) -> Tensor:
        return self._numbers + self._shifts * self._sizes

    def _tables(self) -> Tensor:
        """Ascending, also where entries have passed each other."""
        return (self._weight.tables + self._table_shifts * self._sizes).sort(-1).values


def _straight_through(values: Tensor, rounding: Callable[[Tensor], Tensor]) -> Tensor:
    """Rounded values whose gradient is that of the values."""
    return values + (rounding(values) - values).detach()
