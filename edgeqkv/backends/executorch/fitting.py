"""Quantized matrices in the schemes that XNNPACK has."""

from __future__ import annotations

from typing import Final, TypeVar

from edgeqkv.errors import UnsupportedError
from edgeqkv.model.model import TrainedModel
from edgeqkv.model.weights import QuantizedWeight, Scheme, Weight
from edgeqkv.quantize.nearest import nearest

__all__ = ["fitted"]

M = TypeVar("M", bound=TrainedModel)

_BLOCK: Final = 32  # XNNPACK's int4 blocks are multiples of it


def fitted(model: M) -> M:
    """The model as XNNPACK takes it; the same one if it takes it as it is.

    It has no int8 weights in blocks: those are rounded again, from what they were made from, to one scale a row.

    Raises:
        UnsupportedError: an int4 matrix has blocks that XNNPACK does not take.
    """
    changes = {weight: _fitted(weight) for weight in model.weights}
    if all(before is after for before, after in changes.items()):
        return model
    return model.with_changed_weights(changes.__getitem__)


def _fitted(weight: Weight) -> Weight:
    if not isinstance(weight, QuantizedWeight):
        return weight
    scheme, columns = weight.scheme, weight.shape[1]
    if scheme.bits == 8 and scheme.block != columns:
        by_row = nearest(weight, Scheme(scheme.name, scheme.bits, columns))
        weight.release_pages()
        return by_row
    if scheme.bits == 4 and scheme.block % _BLOCK:
        raise UnsupportedError(
            f"'{weight.name}' has {columns} columns, and XNNPACK takes int4 in blocks of {_BLOCK}; use weights int8"
        )
    return weight
