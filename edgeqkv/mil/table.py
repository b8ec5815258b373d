"""What the tables of MIL operations are made of: the registry, and how operands are read.

An operation is a pure function of torch tensors, called with MIL's own parameter names. Floats come in
as they are held (fp16 or fp32), are computed with in fp32, and the result is left in fp32: rounding it
to the declared type is the evaluator's business. Integers are computed with in int32. String parameters
are ``str``, tuples of values are lists.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

__all__ = ["OpFunction", "OpTable", "axes_of", "integer", "integers", "wide"]

OpFunction = Callable[..., Tensor | tuple[Tensor, ...]]

_Op = TypeVar("_Op", bound=OpFunction)

_WIDER = {
    torch.float16: torch.float32,
    torch.int8: torch.int32,
    torch.uint8: torch.int32,
    torch.int16: torch.int32,
    torch.uint16: torch.int32,
    torch.int64: torch.int32,
}


class OpTable(dict[str, OpFunction]):
    """Operations by MIL type."""

    def op(self, function: _Op) -> _Op:
        """Registers a function under its own name."""
        self[function.__name__] = function
        return function


def wide(x: Tensor) -> Tensor:
    """The tensor in the type that is computed with: fp32, int32 or bool."""
    return x.to(_WIDER.get(x.dtype, x.dtype))


def integer(x: Tensor | int) -> int:
    """A scalar parameter."""
    return int(x)


def integers(x: Tensor) -> list[int]:
    """A vector parameter."""
    return [int(value) for value in x.reshape(-1).tolist()]


def axes_of(axes: Tensor | None, rank: int) -> list[int]:
    """The axes meant, counted from the front; all of them if none are given."""
    return list(range(rank)) if axes is None else [axis % rank for axis in integers(axes)]
