"""Each MIL operation against the opset's own inference of constant values; where it has none, a formula."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mil_packages import ct, mb, tensor

from edgeqkv.mil.errors import InputError, PackageError, UnsupportedOperation
from edgeqkv.mil.ops import MOVING, OPS

RNG = np.random.default_rng(0)
X = RNG.standard_normal((2, 3, 4)).astype(np.float32)
Y = RNG.standard_normal((3, 4)).astype(np.float32)
POSITIVE = np.abs(X) + np.float32(0.1)
INTS = np.array([[7, -7, 5], [-5, 9, 2]], np.int32)
DIVISORS = np.array([2, 3, -4], np.int32)
FLAGS = np.array([[True, False, True], [False, False, True]])

Build = Callable[[], Any]


def _operand(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_operand(each) for each in value]
    constant = value.val
    return constant if isinstance(constant, str) else torch.from_numpy(np.asarray(constant))


def _both(build: Build) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """What the evaluator's function computes for an operation on constants, and what MIL infers."""
    function = ct.converters.mil.mil.Function({}, opset_version=ct.target.iOS18)
    with function:
        built = build()
        variables = list(built) if isinstance(built, list | tuple) else [built]
        op = variables[0].op
        operands = {name: _operand(value) for name, value in op.inputs.items() if value is not None}
        result = OPS[op.op_type](**operands)
        computed = result if isinstance(result, tuple) else (result,)
        return [each.numpy() for each in computed], [np.asarray(each.val) for each in variables]


def assert_agrees(build: Build) -> None:
    computed, inferred = _both(build)
    assert len(computed) == len(inferred)
    for ours, theirs in zip(computed, inferred, strict=True):
        assert ours.shape == theirs.shape
        assert (ours.dtype.kind == "f") == (theirs.dtype.kind == "f")
        # fp32 functions of libm and of torch differ by a few units in the last place (6e-8 each).
        np.testing.assert_allclose(ours, theirs, rtol=2e-6, atol=2e-6)


UNARY = [
    "abs",
    "ceil",
    "cos",
    "erf",
    "exp",
    "exp2",
    "floor",
    "relu",
    "round",
    "sigmoid",
    "sign",
    "sin",
    "softplus",
    "square",
    "tanh",
]
COMPARISONS = ["equal", "greater", "greater_equal", "less", "less_equal", "not_equal"]
ARITHMETIC = ["add", "floor_div", "maximum", "minimum", "mod", "mul", "sub"]
REDUCTIONS = [
    "reduce_max",
    "reduce_mean",
    "reduce_min",
    "reduce_sum",
    "reduce_log_sum_exp",
    "reduce_l1_norm",
    "reduce_l2_norm",
    "reduce_sum_square",
]

CASES: dict[str, Build] = {
    **{name: lambda name=name: getattr(mb, name)(x=X) for name in UNARY},
    **{f"{name}-float": lambda name=name: getattr(mb, name)(x=X, y=Y) for name in COMPARISONS + ARITHMETIC},
    **{f"{name}-int": lambda name=name: getattr(mb, name)(x=INTS, y=DIVISORS) for name in COMPARISONS + ARITHMETIC},
    **{f"{name}-all": lambda name=name: getattr(mb, name)(x=X) for name in REDUCTIONS},
    **{
        f"{name}-axes{axes}{keep}": lambda name=name, axes=axes, keep=keep: getattr(mb, name)(
            x=X, axes=axes, keep_dims=keep
        )
        for name in REDUCTIONS
        for axes, keep in (([1], False), ([-1], True), ([0, -1], False))
    },
    **{
        f"{name}{axis}{keep}": lambda name=name, axis=axis, keep=keep: getattr(mb, name)(x=X, axis=axis, keep_dims=keep)
        for name in ("reduce_argmax", "reduce_argmin")
        for axis in (0, -1)
        for keep in (True, False)
    },
    **{
        f"{name}": lambda name=name: getattr(mb, name)(x=FLAGS, y=FLAGS[:, :1])
        for name in ("logical_and", "logical_or", "logical_xor")
    },
    **{
        f"cast-{dtype}": lambda dtype=dtype: mb.cast(x=X * 3, dtype=dtype)
        for dtype in ("fp32", "int32", "int8", "bool")
    },
    "reduce_sum-int": lambda: mb.reduce_sum(x=INTS, axes=[1]),
    "reduce_mean-int": lambda: mb.reduce_mean(x=INTS, axes=[1]),
    "logical_not": lambda: mb.logical_not(x=FLAGS),
    "cast-from-bool": lambda: mb.cast(x=FLAGS, dtype="fp32"),
    "real_div": lambda: mb.real_div(x=X, y=POSITIVE),
    "pow": lambda: mb.pow(x=POSITIVE, y=Y),
    "sqrt": lambda: mb.sqrt(x=POSITIVE),
    "log": lambda: mb.log(x=POSITIVE, epsilon=0.5),
    "rsqrt": lambda: mb.rsqrt(x=POSITIVE, epsilon=0.5),
    "rsqrt-default": lambda: mb.rsqrt(x=POSITIVE),
    "inverse": lambda: mb.inverse(x=POSITIVE, epsilon=0.5),
    "clip": lambda: mb.clip(x=X, alpha=-0.5, beta=0.25),
    "threshold": lambda: mb.threshold(x=X, alpha=0.25),
    "leaky_relu": lambda: mb.leaky_relu(x=X, alpha=0.1),
    "softmax": lambda: mb.softmax(x=X),
    "softmax-axis": lambda: mb.softmax(x=X, axis=1),
    **{
        f"gelu-{mode}": lambda mode=mode: mb.gelu(x=X, mode=mode)
        for mode in ("EXACT", "TANH_APPROXIMATION", "SIGMOID_APPROXIMATION")
    },
    "cumsum": lambda: mb.cumsum(x=X, axis=1),
    "cumsum-reverse": lambda: mb.cumsum(x=X, axis=-1, reverse=True),
    "layer_norm": lambda: mb.layer_norm(x=X, axes=[-1], gamma=Y[0], beta=Y[1], epsilon=1e-3),
    "layer_norm-two-axes": lambda: mb.layer_norm(x=X, axes=[1, 2], gamma=Y, beta=Y + 1),
    "layer_norm-plain": lambda: mb.layer_norm(x=X, axes=[0, 1, 2]),
    "linear": lambda: mb.linear(x=X, weight=Y, bias=Y[:, 0]),
    "linear-no-bias": lambda: mb.linear(x=X[0], weight=Y),
    "matmul": lambda: mb.matmul(x=X, y=X, transpose_y=True),
    "matmul-transpose-x": lambda: mb.matmul(x=X, y=X, transpose_x=True),
    "matmul-matrix": lambda: mb.matmul(x=X, y=Y, transpose_y=True),
    "matmul-vector": lambda: mb.matmul(x=X[0, 0], y=Y, transpose_y=True),
    "matmul-int": lambda: mb.matmul(x=INTS, y=INTS, transpose_y=True),
    "einsum": lambda: mb.einsum(values=[X[None, :, :1], X.transpose(2, 1, 0)[None]], equation="nchw,nwhu->nchu"),
    **{
        f"sdpa-{name}": lambda mask=mask: mb.scaled_dot_product_attention(query=X, key=X + 1, value=X - 1, **mask)
        for name, mask in {
            "plain": {},
            "bool": {"attn_mask": np.tri(3, dtype=bool)},
            "float": {"attn_mask": np.where(np.tri(3), 0, -1e4).astype(np.float32)[None]},
        }.items()
    },
    "identity": lambda: mb.identity(x=X),
    "select": lambda: mb.select(cond=X > 0, a=X, b=Y),
    "shape": lambda: mb.shape(x=X),
    "reshape-minus-one": lambda: mb.reshape(x=X, shape=[4, -1]),
    "reshape-zero": lambda: mb.reshape(x=X, shape=[0, -1, 4]),
    "reshape-zero-beyond": lambda: mb.reshape(x=Y, shape=[1, 0, -1, 0]),
    "transpose": lambda: mb.transpose(x=X, perm=[-1, 0, 1]),
    "expand_dims": lambda: mb.expand_dims(x=X, axes=[0, -1]),
    "expand_dims-adjacent": lambda: mb.expand_dims(x=X, axes=[2, 1]),
    "squeeze": lambda: mb.squeeze(x=X[:1, :1], axes=[0, -2]),
    "squeeze-all": lambda: mb.squeeze(x=X[:1, :, :1]),
    "reverse": lambda: mb.reverse(x=X, axes=[1]),
    "concat": lambda: mb.concat(values=[X, X + 1], axis=-2),
    "stack-middle": lambda: mb.stack(values=[X, X + 1], axis=1),
    "concat-scalars": lambda: mb.concat(values=[np.int32(3), np.int32(4)], axis=0),
    "stack": lambda: mb.stack(values=[X, X + 1], axis=-1),
    "split": lambda: mb.split(x=X, num_splits=2, axis=-1),
    "split-sizes": lambda: mb.split(x=X, split_sizes=[1, 2], axis=1),
    "tile": lambda: mb.tile(x=X, reps=[2, 1, 3]),
    "pad": lambda: mb.pad(x=X, pad=[1, 0, 2, 3], mode="constant", constant_val=0.5),
    "pad-reflect": lambda: mb.pad(x=X, pad=[1, 2, 2, 1], mode="reflect"),
    "pad-replicate": lambda: mb.pad(x=X, pad=[0, 1, 1, 0, 2, 3], mode="replicate"),
    "fill": lambda: mb.fill(shape=[2, 3], value=1.5),
    "fill_like": lambda: mb.fill_like(ref_tensor=X, value=2.0),
    "range_1d": lambda: mb.range_1d(start=np.int32(2), end=np.int32(9), step=np.int32(3)),
    "range_1d-float": lambda: mb.range_1d(start=np.float32(0), end=np.float32(1), step=np.float32(0.3)),
    "band_part": lambda: mb.band_part(x=X, lower=1, upper=0),
    "band_part-causal": lambda: mb.band_part(x=X, lower=-1, upper=0),
    "gather": lambda: mb.gather(x=X, indices=np.array([[2, 0], [1, 1]], np.int32), axis=1),
    "gather-scalar": lambda: mb.gather(x=X, indices=np.int32(2), axis=-2),
    "gather-negative": lambda: mb.gather(x=X, indices=np.array([-1, -4], np.int32), axis=2),
    "gather-batch": lambda: mb.gather(x=X, indices=np.array([[2, 0], [1, 1]], np.int32), axis=1, batch_dims=1),
    "gather-batch-later-axis": lambda: mb.gather(x=X, indices=np.array([[3], [1]], np.int32), axis=2, batch_dims=1),
    "gather_along_axis": lambda: mb.gather_along_axis(x=X, indices=np.array([[[2, 0, 1, -1]]] * 2, np.int32), axis=1),
    "scatter_along_axis-update": lambda: mb.scatter_along_axis(
        data=X,
        indices=np.array([[[2, 0, 1, 1]]] * 2, np.int32),
        updates=X[:, :1] * 5,
        axis=1,
        mode="update",
    ),
    "slice_by_size": lambda: mb.slice_by_size(x=X, begin=[0, 1, -2], size=[1, -1, 2]),
    "slice_by_index-masks": lambda: mb.slice_by_index(
        x=X, begin=[1, 1, 2], end=[1, 2, 0], begin_mask=[True, False, False], end_mask=[True, False, True]
    ),
    "slice_by_index-squeeze": lambda: mb.slice_by_index(
        x=X, begin=[1, 0, 1], end=[0, 3, 4], squeeze_mask=[True, False, False]
    ),
}


@pytest.mark.parametrize("build", CASES.values(), ids=CASES.keys())
def test_agrees_with_the_opset(build: Build) -> None:
    assert_agrees(build)


@st.composite
def slices(draw: st.DrawFn) -> tuple[list[int], list[tuple[int, int, int, bool, bool]]]:
    """Sizes, and for each dimension begin, end, stride and masks of a slice that is not empty."""
    sizes = draw(st.lists(st.integers(1, 5), min_size=1, max_size=3))
    chosen = []
    for size in sizes:
        first, last = sorted((draw(st.integers(0, size - 1)), draw(st.integers(0, size - 1))))
        stride = draw(st.integers(1, 3))
        negative = draw(st.booleans())
        if draw(st.booleans()):
            # Backwards, from the last element to the one before `first`, which only a mask can be for 0.
            chosen.append((last - size * negative, max(first - 1, 0), -stride, False, first == 0))
        else:
            chosen.append((first - size * negative, last + 1, stride, draw(st.booleans()), draw(st.booleans())))
    return sizes, chosen


@settings(max_examples=80, deadline=None)
@given(slices())
def test_slices_are_numpys(case: tuple[list[int], list[tuple[int, int, int, bool, bool]]]) -> None:
    sizes, chosen = case
    x = np.arange(math.prod(sizes), dtype=np.int32).reshape(sizes)
    begin, end, stride, begin_mask, end_mask = zip(*chosen, strict=True)
    numpys = tuple(
        slice(None if no_begin else first, None if no_end else last, step)
        for first, last, step, no_begin, no_end in chosen
    )
    parameters = {
        "begin": tensor(begin),
        "end": tensor(end),
        "stride": tensor(stride),
        "begin_mask": tensor(begin_mask, bool),
        "end_mask": tensor(end_mask, bool),
    }
    part = OPS["slice_by_index"](x=tensor(x), **parameters)
    np.testing.assert_array_equal(part, x[numpys])

    expected, update = x.copy(), -np.ones_like(x[numpys]) - np.arange(x[numpys].size).reshape(x[numpys].shape)
    expected[numpys] = update
    source = tensor(x)
    updated = OPS["slice_update"](x=source, update=tensor(update), **parameters)
    np.testing.assert_array_equal(updated, expected)
    np.testing.assert_array_equal(source, x)


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_gather_undoes_concat(data: st.DataObject) -> None:
    """Rows concatenated along an axis are found again at their places, counted from either end."""
    axis = data.draw(st.integers(-3, 2))
    sizes = data.draw(st.lists(st.integers(1, 3), min_size=1, max_size=4))
    parts = [torch.randn([size if dim == axis % 3 else 2 for dim in range(3)]) for size in sizes]
    whole = OPS["concat"](values=parts, axis=tensor(axis))
    assert isinstance(whole, torch.Tensor)
    start = 0
    for part in parts:
        places = torch.arange(start, start + part.shape[axis], dtype=torch.int32)
        for indices in (places, places - sum(sizes)):
            torch.testing.assert_close(OPS["gather"](x=whole, indices=indices, axis=tensor(axis)), part, rtol=0, atol=0)
        start += part.shape[axis]
    again = OPS["split"](x=whole, split_sizes=tensor(sizes), axis=tensor(axis))
    assert all(torch.equal(a, b) for a, b in zip(again, parts, strict=True))


@settings(max_examples=25, deadline=None)
@given(st.permutations([2, 3, 4, 5]), st.integers(0, 3))
def test_reshape_is_undone(shape: list[int], inferred: int) -> None:
    x = torch.arange(120, dtype=torch.int32).reshape(2, 3, 4, 5)
    asked = [-1 if dim == inferred else size for dim, size in enumerate(shape)]
    reshaped = OPS["reshape"](x=x, shape=tensor(asked))
    assert isinstance(reshaped, torch.Tensor)
    assert list(reshaped.shape) == shape
    assert torch.equal(OPS["reshape"](x=reshaped, shape=tensor(x.shape)), x)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("op", "parameters", "message"),
    [
        ("slice_by_index", {"begin": [0, 2, 0], "end": [2, 4, 4]}, "positions 2 to 4 of dimension 1"),
        ("slice_by_index", {"begin": [0, 2, 0], "end": [2, 1, 4]}, "positions 2 to 1 of dimension 1"),
        ("slice_by_size", {"begin": [0, 0, 3], "size": [2, 3, 2]}, "its capacity is 4"),
        ("gather", {"indices": [0, 2], "axis": 0}, "index 2 is out of range: the dimension holds 2"),
        ("gather", {"indices": [-3], "axis": 0}, "index -3"),
        ("gather", {"indices": [-1], "axis": 0, "validate_indices": 1}, "index -1"),
        ("gather_along_axis", {"indices": [[[9] * 4]] * 2, "axis": 1}, "index 9"),
    ],
)
def test_positions_out_of_range_are_errors(op: str, parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        OPS[op](x=tensor(X, np.float32), **{key: tensor(value) for key, value in parameters.items()})


def test_an_update_past_the_capacity_is_an_error() -> None:
    """Clamping it would overwrite the newest positions of a cache instead."""
    cache, new = torch.zeros(1, 8, 4), torch.ones(1, 2, 4)
    with pytest.raises(InputError, match=r"positions 7 to 9 of dimension 1 .* capacity is 8"):
        OPS["slice_update"](x=cache, update=new, begin=tensor([0, 7, 0]), end=tensor([1, 9, 4]))
    with pytest.raises(InputError, match=r"slice to update is \[1, 3, 4\]"):
        OPS["slice_update"](x=cache, update=new, begin=tensor([0, 5, 0]), end=tensor([1, 8, 4]))
    assert not cache.any()


def test_the_greatest_end_reaches_the_end() -> None:
    """Exporters write "to the end" as the greatest int32."""
    part = OPS["slice_by_index"](x=tensor(INTS), begin=tensor([0, 1]), end=tensor([2, 2**31 - 1]))
    np.testing.assert_array_equal(part, INTS[:, 1:])


def test_integer_division_is_towards_zero() -> None:
    np.testing.assert_array_equal(
        OPS["real_div"](x=tensor(INTS), y=tensor(DIVISORS)), np.trunc(INTS / DIVISORS).astype(np.int32)
    )


def test_silu() -> None:
    np.testing.assert_allclose(OPS["silu"](x=tensor(X, np.float32)), X / (1 + np.exp(-X)), rtol=2e-6)


def test_exclusive_cumsum() -> None:
    np.testing.assert_array_equal(OPS["cumsum"](x=tensor([1, 2, 3]), exclusive=tensor(True, bool)), np.array([0, 1, 3]))


def test_interleaved_concat() -> None:
    result = OPS["concat"](values=[tensor([[1, 2]]), tensor([[3, 4]])], axis=tensor(1), interleave=tensor(True, bool))
    np.testing.assert_array_equal(result, [[1, 3, 2, 4]])


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_one_hot(axis: int) -> None:
    indices = np.array([[0, 2], [3, -1]])  # neither 3 nor -1 is a place in a vector of 3
    expected = np.moveaxis((indices[..., None] == np.arange(3)) * 5 - 1, -1, axis)
    result = OPS["one_hot"](
        indices=tensor(indices),
        one_hot_vector_size=tensor(3),
        axis=tensor(axis),
        on_value=tensor(4),
        off_value=tensor(-1),
    )
    np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("update", [[20.0, 1.0], [10.0, 2.0]]),
        ("add", [[22.0, 3.0], [14.0, 10.0]]),
        ("sub", [[-18.0, 1.0], [-6.0, 6.0]]),
        ("mul", [[40.0, 2.0], [40.0, 16.0]]),
        ("div", [[0.1, 2.0], [0.4, 4.0]]),
        ("max", [[20.0, 2.0], [10.0, 8.0]]),
        ("min", [[2.0, 1.0], [4.0, 2.0]]),
    ],
)
def test_scatter_modes(mode: str, expected: list[list[float]]) -> None:
    data = tensor([[2, 2], [4, 8]], np.float32)
    updates = tensor([[10, 2], [20, 1]], np.float32)
    result = OPS["scatter"](data=data, indices=tensor([1, 0]), updates=updates, axis=tensor(0), mode=mode)
    np.testing.assert_allclose(result, np.array(expected), rtol=1e-6)


@pytest.mark.parametrize(
    ("op", "parameters"),
    [
        ("gelu", {"x": torch.ones(1), "mode": "?"}),
        ("pad", {"x": torch.ones(1), "pad": tensor([1, 1]), "mode": "?"}),
        ("conv", {"x": torch.ones(1, 1, 3), "weight": torch.ones(1, 1, 2), "pad_type": "?"}),
        ("conv", {"x": torch.ones(1, 1), "weight": torch.ones(1, 1)}),
        (
            "scatter",
            {"data": tensor([1]), "indices": tensor([0]), "updates": tensor([1]), "mode": "div"},
        ),
    ],
)
def test_unknown_modes_are_refused(op: str, parameters: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedOperation):
        OPS[op](**parameters)


def test_split_needs_to_be_told_how() -> None:
    with pytest.raises(PackageError, match="num_splits"):
        OPS["split"](x=torch.ones(4), axis=tensor(0))


def test_moving_operations_are_known_ones() -> None:
    assert OPS.keys() > MOVING
    assert not MOVING & {"add", "softmax", "linear", "scatter"}
