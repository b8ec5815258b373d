"""MIL's elementwise operations and reductions (opsets iOS15 to iOS18), on torch tensors."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from edgeqkv.mil.errors import UnsupportedOperation
from edgeqkv.mil.table import OpFunction, OpTable, axes_of, integer, wide

__all__ = ["MATH"]

MATH = OpTable()

_UNARY: dict[str, Callable[[Tensor], Tensor]] = {
    "abs": torch.abs,
    "ceil": torch.ceil,
    "cos": torch.cos,
    "erf": torch.erf,
    "exp": torch.exp,
    "exp2": torch.exp2,
    "floor": torch.floor,
    "logical_not": torch.logical_not,
    "relu": torch.relu,
    "round": torch.round,
    "sigmoid": torch.sigmoid,
    "sign": torch.sign,
    "silu": F.silu,
    "sin": torch.sin,
    "softplus": F.softplus,
    "sqrt": torch.sqrt,
    "square": torch.square,
    "tanh": torch.tanh,
}

_BINARY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "add": torch.add,
    "equal": torch.eq,
    "floor_div": torch.floor_divide,
    "greater": torch.gt,
    "greater_equal": torch.ge,
    "less": torch.lt,
    "less_equal": torch.le,
    "logical_and": torch.logical_and,
    "logical_or": torch.logical_or,
    "logical_xor": torch.logical_xor,
    "maximum": torch.maximum,
    "minimum": torch.minimum,
    "mod": torch.remainder,
    "mul": torch.mul,
    "not_equal": torch.ne,
    "pow": torch.pow,
    "sub": torch.sub,
}

_REDUCTIONS: dict[str, Callable[[Tensor, list[int], bool], Tensor]] = {
    "reduce_max": torch.amax,
    "reduce_min": torch.amin,
    "reduce_sum": torch.sum,
    "reduce_log_sum_exp": torch.logsumexp,
    "reduce_l1_norm": lambda x, axes, keep: x.abs().sum(axes, keep),
    "reduce_l2_norm": lambda x, axes, keep: x.square().sum(axes, keep).sqrt(),
    "reduce_sum_square": lambda x, axes, keep: x.square().sum(axes, keep),
}

_DTYPES = {
    "fp16": torch.float32,  # rounded when the result is held
    "fp32": torch.float32,
    "int8": torch.int8,
    "uint8": torch.uint8,
    "int16": torch.int16,
    "uint16": torch.uint16,
    "int32": torch.int32,
    "int64": torch.int32,  # MIL has no wider integer than int32
    "bool": torch.bool,
}


def _unary(function: Callable[[Tensor], Tensor]) -> OpFunction:
    return lambda x: function(wide(x))


def _binary(function: Callable[[Tensor, Tensor], Tensor]) -> OpFunction:
    return lambda x, y: function(wide(x), wide(y))


def _reduction(function: Callable[[Tensor, list[int], bool], Tensor]) -> OpFunction:
    def reduce(x: Tensor, axes: Tensor | None = None, keep_dims: Tensor | bool = False) -> Tensor:
        return function(wide(x), axes_of(axes, x.dim()), bool(keep_dims))

    return reduce


MATH.update({name: _unary(function) for name, function in _UNARY.items()})
MATH.update({name: _binary(function) for name, function in _BINARY.items()})
MATH.update({name: _reduction(function) for name, function in _REDUCTIONS.items()})


@MATH.op
def real_div(x: Tensor, y: Tensor) -> Tensor:
    """Integers are divided towards zero, since the result is declared an integer too."""
    floating = x.is_floating_point() or y.is_floating_point()
    return torch.div(wide(x), wide(y), rounding_mode=None if floating else "trunc")


@MATH.op
def cast(x: Tensor, dtype: str) -> Tensor:
    return x.to(_DTYPES[dtype])


@MATH.op
def clip(x: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    return torch.minimum(torch.maximum(wide(x), wide(alpha)), wide(beta))


@MATH.op
def threshold(x: Tensor, alpha: Tensor) -> Tensor:
    return torch.maximum(wide(x), wide(alpha))


@MATH.op
def leaky_relu(x: Tensor, alpha: Tensor) -> Tensor:
    return F.leaky_relu(wide(x), float(alpha))


@MATH.op
def log(x: Tensor, epsilon: Tensor | float = 1e-45) -> Tensor:
    return torch.log(wide(x) + float(epsilon))


@MATH.op
def rsqrt(x: Tensor, epsilon: Tensor | float = 1e-12) -> Tensor:
    return torch.rsqrt(wide(x) + float(epsilon))


@MATH.op
def inverse(x: Tensor, epsilon: Tensor | float = 1e-4) -> Tensor:
    return torch.reciprocal(wide(x) + float(epsilon))


@MATH.op
def gelu(x: Tensor, mode: str = "EXACT") -> Tensor:
    if mode == "SIGMOID_APPROXIMATION":
        return wide(x) * torch.sigmoid(1.702 * wide(x))
    if mode not in ("EXACT", "TANH_APPROXIMATION"):
        raise UnsupportedOperation(f"the mode {mode!r} is unknown")
    return F.gelu(wide(x), approximate="none" if mode == "EXACT" else "tanh")


@MATH.op
def softmax(x: Tensor, axis: Tensor | int = -1) -> Tensor:
    return torch.softmax(wide(x), integer(axis))


@MATH.op
def cumsum(
    x: Tensor, axis: Tensor | int = 0, exclusive: Tensor | bool = False, reverse: Tensor | bool = False
) -> Tensor:
    values, dim = wide(x), integer(axis)
    if reverse:
        values = values.flip(dim)
    total = values.cumsum(dim)
    if exclusive:
        total = total - values
    return total.flip(dim) if reverse else total


@MATH.op
def reduce_mean(x: Tensor, axes: Tensor | None = None, keep_dims: Tensor | bool = False) -> Tensor:
    values, dims = wide(x), axes_of(axes, x.dim())
    if values.is_floating_point():
        return values.mean(dims, bool(keep_dims))
    return values.double().mean(dims, bool(keep_dims)).to(values.dtype)


@MATH.op
def reduce_argmax(
    x: Tensor, axis: Tensor | int = -1, keep_dims: Tensor | bool = False, output_dtype: str = "int32"
) -> Tensor:
    return wide(x).argmax(integer(axis), bool(keep_dims)).to(_DTYPES[output_dtype])


@MATH.op
def reduce_argmin(
    x: Tensor, axis: Tensor | int = -1, keep_dims: Tensor | bool = False, output_dtype: str = "int32"
) -> Tensor:
    return wide(x).argmin(integer(axis), bool(keep_dims)).to(_DTYPES[output_dtype])
