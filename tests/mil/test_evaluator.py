"""Packages built with the MIL builder, saved, and run by the evaluator."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mil_packages import (
    CAPACITY,
    TABLE,
    ct,
    mb,
    save,
    state_input,
    tensor_input,
    tokens_at,
    types,
)

from edgeqkv.mil import (
    Evaluator,
    InputError,
    Package,
    State,
)

pytest_plugins = ("mil_fixtures",)


def test_two_functions_share_one_state(merged: Path) -> None:
    prefill = Evaluator(merged, "prefill")
    decode = prefill.for_function("decode")
    assert decode.package is prefill.package
    state = prefill.new_state()
    table = TABLE.astype(np.float32)

    total = prefill.run(tokens_at(0, 5, 1, 9), state)["total"]
    np.testing.assert_allclose(total, table[[5, 1, 9]].sum(0), rtol=1e-6)
    total = decode.run(tokens_at(3, 15), state)["total"]
    np.testing.assert_allclose(total, table[[5, 1, 9, 15]].sum(0), rtol=1e-6)
    total = decode.run(tokens_at(1, 0), state)["total"]
    np.testing.assert_allclose(total, table[[5, 0, 9, 15]].sum(0), rtol=1e-6)

    expected = np.zeros((CAPACITY, 4), np.float32)
    expected[:4] = table[[5, 0, 9, 15]]
    np.testing.assert_array_equal(state.read_state("cache"), expected)
    assert not prefill.new_state().read_state("cache").any()


def test_runs_of_other_states_do_not_touch_a_copy(merged: Path) -> None:
    decode = Evaluator(merged, "decode")
    state = decode.new_state()
    decode.run(tokens_at(0, 3), state)
    copy = state.copy()
    decode.run(tokens_at(0, 4), state)
    np.testing.assert_array_equal(copy.read_state("cache")[0], TABLE[3].astype(np.float32))
    state.reset()
    assert not state.read_state("cache").any()


def test_results_are_the_callers_own(merged: Path) -> None:
    """Writing to what a run or a state gave must not reach the state."""
    decode = Evaluator(merged, "decode")
    state = decode.new_state()
    decode.run(tokens_at(0, 3), state)["total"][:] = 99
    state.read_state("cache")[:] = 99
    total = decode.run(tokens_at(1, 9), state)["total"]
    np.testing.assert_allclose(total, TABLE[[3, 9]].astype(np.float32).sum(0), rtol=1e-6)


def test_a_position_past_the_capacity_leaves_the_state_alone(merged: Path) -> None:
    prefill = Evaluator(merged, "prefill")
    state = prefill.new_state()
    prefill.run(tokens_at(0, 1, 2, 3), state)
    before = state.read_state("cache")
    with pytest.raises(InputError, match=r"slice_update .* positions 6 to 9 .* capacity is 8"):
        prefill.run(tokens_at(6, 1, 2, 3), state)
    np.testing.assert_array_equal(state.read_state("cache"), before)


def test_a_token_outside_the_table_is_an_error(merged: Path) -> None:
    decode = Evaluator(merged, "decode")
    with pytest.raises(InputError, match=r"gather .*: index 16 is out of range"):
        decode.run(tokens_at(0, 16), decode.new_state())


def test_an_update_from_an_older_read_loses_what_was_written_since(tmp_path: Path) -> None:
    """Two updates of one state that both begin from its first content: the second one wins, whole.

    coremltools merges equal reads of a state even if it is written in between, so this happens to every
    program that reads the state before each update. It must begin from the last update's result instead.
    """

    def build(x: Any, memory: Any) -> Any:
        for row in range(2):
            update = mb.slice_update(
                x=mb.read_state(input=memory), update=x, begin=[row, 0], end=[row + 1, 4], name=f"row{row}"
            )
            mb.coreml_update_state(state=memory, value=update)
        return mb.add(x=x, y=np.float16(1))

    inputs = {"x": tensor_input((1, 4)), "memory": state_input((2, 4))}
    evaluator = Evaluator(save(tmp_path / "reads.mlpackage", inputs, build))
    state = evaluator.new_state()
    evaluator.run({"x": np.ones((1, 4), np.float32)}, state)
    np.testing.assert_array_equal(state.read_state("memory"), [[0] * 4, [1] * 4])


def test_layers_of_one_state(tmp_path: Path) -> None:
    """Each update begins from the one before, and earlier results stay what they were."""

    def build(x: Any, memory: Any) -> Any:
        content, seen = mb.read_state(input=memory), []
        for row in range(3):
            content = mb.slice_update(x=content, update=x, begin=[row, 0], end=[row + 1, 4])
            content = mb.coreml_update_state(state=memory, value=content)
            seen.append(mb.slice_by_index(x=content, begin=[0, 0], end=[3, 2]))
        return tuple(mb.reduce_sum(x=each, axes=[0, 1], name=f"sum{row}") for row, each in enumerate(seen))

    inputs = {"x": tensor_input((1, 4)), "memory": state_input((3, 4))}
    evaluator = Evaluator(save(tmp_path / "layers.mlpackage", inputs, build))
    state = evaluator.new_state()
    for value in (1, 2):
        kept = state.copy()
        sums = evaluator.run({"x": np.full((1, 4), value, np.float32)}, state)
        old = kept.read_state("memory")[:, 0].sum()
        assert [float(sums[f"sum{row}"]) for row in range(3)] == [
            2 * (value * (row + 1) + (old / 3) * (2 - row)) for row in range(3)
        ]
    np.testing.assert_array_equal(state.read_state("memory"), np.full((3, 4), 2))


def test_a_constant_that_is_updated_is_not_changed_itself(tmp_path: Path) -> None:
    """A state set to a constant and then updated: the next run starts from the same constant."""

    def build(row: Any, memory: Any) -> Any:
        content = mb.coreml_update_state(state=memory, value=TABLE)
        zero = np.zeros(1, np.int32)
        begin = mb.concat(values=[row, zero], axis=0)
        end = mb.concat(values=[mb.add(x=row, y=np.int32(1)), np.full(1, 4, np.int32)], axis=0)
        content = mb.slice_update(x=content, update=np.full((1, 4), -1, np.float16), begin=begin, end=end)
        mb.coreml_update_state(state=memory, value=content)
        return mb.add(x=row, y=np.int32(1))

    inputs = {"row": tensor_input((1,), types.int32), "memory": state_input(TABLE.shape)}
    evaluator = Evaluator(save(tmp_path / "constant.mlpackage", inputs, build), precision="fp16")
    state = evaluator.new_state()
    for row in (2, 5):
        evaluator.run({"row": np.array([row])}, state)
        expected = TABLE.copy()
        expected[row] = -1
        np.testing.assert_array_equal(state.read_state("memory"), expected)


def test_inputs_stay_the_callers(tmp_path: Path) -> None:
    def build(x: Any) -> Any:
        return mb.slice_update(x=x, update=np.ones((1, 4), np.float32), begin=[0, 0], end=[1, 4], name="y")

    path = save(tmp_path / "input.mlpackage", {"x": tensor_input((2, 4), types.fp32)}, build)
    x = np.zeros((2, 4), np.float32)
    np.testing.assert_array_equal(Evaluator(path).run({"x": x})["y"], [[1] * 4, [0] * 4])
    assert not x.any()


def test_fp32_does_not_round(product: Path) -> None:
    x = np.random.default_rng(0).standard_normal((2, 4)).astype(np.float32)
    outputs = Evaluator(product).run({"x": x})
    expected = x.astype(np.float64) @ TABLE.T.astype(np.float64)
    assert outputs["y"].dtype == np.float32
    # fp32 sums of 4 products of size 10; rounding anything to fp16 would cost 5e-3.
    np.testing.assert_allclose(outputs["y"], expected, atol=4e-6)
    np.testing.assert_allclose(outputs["squared"], expected**2, atol=2e-4)


def test_fp16_rounds_after_each_operation(product: Path) -> None:
    x = np.random.default_rng(0).standard_normal((2, 4)).astype(np.float16)
    outputs = Evaluator(product, precision="fp16").run({"x": x})
    y = (x.astype(np.float32) @ TABLE.T.astype(np.float32)).astype(np.float16)
    assert outputs["y"].dtype == np.float16
    np.testing.assert_array_equal(outputs["y"], y)
    np.testing.assert_array_equal(outputs["squared"], y * y)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_peaks(product: Path, precision: Any) -> None:
    evaluator = Evaluator(product, precision=precision)
    x = np.zeros((2, 4), np.float16)
    x[1, 3] = 25
    evaluator.run({"x": x})
    largest = float(TABLE[15, 3]) * 25
    y, squared = evaluator.peaks["y"], evaluator.peaks["squared"]
    assert (y.type, squared.type) == ("linear", "mul")
    assert y.largest == pytest.approx(largest, rel=1e-6)
    assert squared.largest == pytest.approx(largest**2, rel=1e-3)
    assert squared.headroom == pytest.approx(65504 / largest**2, rel=1e-3)
    assert not squared.overflowed

    x[1, 3] = 50
    outputs = evaluator.run({"x": x})
    assert evaluator.peaks["squared"].headroom < 1
    assert evaluator.peaks["squared"].overflowed == (precision == "fp16")
    assert not evaluator.peaks["squared"].nonfinite
    assert bool(np.isinf(outputs["squared"]).any()) == (precision == "fp16")


def test_what_is_not_observed_computes_the_same(product: Path) -> None:
    x = np.linspace(-2, 2, 8).reshape(2, 4).astype(np.float16)
    observed, plain = Evaluator(product), Evaluator(product, observe=False)
    expected, got = observed.run({"x": x}), plain.run({"x": x})
    assert observed.peaks
    assert not plain.peaks
    assert not plain.for_function(plain.function).peaks
    assert all(np.array_equal(got[name], expected[name]) for name in expected)


def test_not_a_number_is_seen(product: Path) -> None:
    evaluator = Evaluator(product)
    evaluator.run({"x": np.full((2, 4), np.nan, np.float32)})
    assert evaluator.peaks["y"].nonfinite
    assert evaluator.peaks["y"].largest == 0
    assert evaluator.peaks["y"].headroom == np.inf


def test_flexible_inputs(tmp_path: Path) -> None:
    length = ct.RangeDim(1, 6, default=2)
    path = save(
        tmp_path / "flexible.mlpackage",
        {"x": tensor_input((length.symbol, 4))},
        lambda x: mb.linear(x=x, weight=TABLE, name="y"),
        inputs=[ct.TensorType(name="x", shape=(length, 4), dtype=np.float16)],
    )
    evaluator = Evaluator(path)
    assert str(evaluator.inputs["x"]) == "fp16[1..6, 4]"
    for rows in (1, 6):
        assert evaluator.run({"x": np.ones((rows, 4), np.float32)})["y"].shape == (rows, 16)
    with pytest.raises(InputError, match=r"'x' is fp16\[1..6, 4\], not of the shape \[7, 4\]"):
        evaluator.run({"x": np.ones((7, 4), np.float32)})


def test_compressed_weights(tmp_path: Path) -> None:
    """Packed in the file, and decompressed once for all evaluators of a package."""
    rng = np.random.default_rng(1)
    codes = rng.integers(-8, 8, (16, 32)).astype(np.int8)
    scale = rng.random((16, 2)).astype(np.float16)
    indices = rng.integers(0, 8, (16, 32)).astype(np.uint8)
    lut = rng.standard_normal((1, 1, 8, 1)).astype(np.float16)

    def build(x: Any) -> Any:
        nptype = types.nptype_from_builtin
        int4 = mb.constexpr_blockwise_shift_scale(data=codes.astype(nptype(types.int4)), scale=scale)
        table = mb.constexpr_lut_to_dense(indices=indices.astype(nptype(types.uint3)), lut=lut)
        return mb.linear(x=x, weight=int4, name="int4"), mb.linear(x=x, weight=table, name="table")

    path = save(tmp_path / "compressed.mlpackage", {"x": tensor_input((2, 32))}, build)
    package = Package(path)
    x = rng.standard_normal((2, 32)).astype(np.float32)
    first, second = Evaluator(package), Evaluator(package, precision="fp16")
    outputs = first.run({"x": x})
    second.run({"x": x})
    assert len(package.derived) == 2
    weights = {"int4": codes * scale.repeat(16, 1), "table": lut[0, 0, indices, 0]}
    for name, weight in weights.items():
        # fp32 sums of 32 products of size 10.
        np.testing.assert_allclose(outputs[name], x @ weight.T.astype(np.float32), atol=5e-5)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, "takes the inputs 'x', not none"),
        ({"x": np.ones((2, 4)), "z": np.ones(1)}, "not 'x', 'z'"),
        ({"x": np.ones((4, 2))}, r"'x' is fp16\[2, 4\], not of the shape \[4, 2\]"),
        ({"x": np.ones((2, 4), np.int32)}, "not an array of int32"),
    ],
)
def test_wrong_inputs(product: Path, inputs: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Evaluator(product).run(inputs)


def test_integers_must_fit(merged: Path) -> None:
    decode = Evaluator(merged, "decode")
    inputs = {"tokens": np.array([2**40]), "position": np.array([0])}
    with pytest.raises(InputError, match="do not fit into int32"):
        decode.run(inputs, decode.new_state())


def test_wrong_states(merged: Path, product: Path) -> None:
    decode = Evaluator(merged, "decode")
    with pytest.raises(InputError, match="pass one made by new_state"):
        decode.run(tokens_at(0, 5))
    with pytest.raises(InputError, match="none of this name"):
        decode.run(tokens_at(0, 5), Evaluator(product).new_state())
    with pytest.raises(InputError, match="for precision fp16, not fp32"):
        decode.run(tokens_at(0, 5), State(decode.states, "fp16"))
    with pytest.raises(InputError, match="no state 'kv'; there are 'cache'"):
        decode.new_state().read_state("kv")
    with pytest.raises(InputError, match="'cache' is"):
        decode.new_state().write_state("cache", np.ones(3))


def test_a_state_can_be_set(merged: Path) -> None:
    decode = Evaluator(merged, "decode")
    state = decode.new_state()
    state.write_state("cache", np.ones((CAPACITY, 4)))
    total = decode.run(tokens_at(0, 0), state)["total"]
    np.testing.assert_allclose(total, CAPACITY - 1 + TABLE[0].astype(np.float32))


def test_unknown_names(merged: Path) -> None:
    with pytest.raises(InputError, match="no function 'main'; it has 'decode', 'prefill'"):
        Evaluator(merged, "main")
    with pytest.raises(InputError, match="fp32 or fp16, not 'fp8'"):
        Evaluator(merged, precision="fp8")  # type: ignore[arg-type]


def test_an_image_is_given_as_its_pixels(colors: Path) -> None:
    evaluator = Evaluator(colors, precision="fp16")
    assert str(evaluator.inputs["image"]) == "RGB image[1, 3, 2, 4]"
    pixels = np.random.default_rng(0).integers(0, 256, (1, 3, 2, 4)).astype(np.uint8)
    (result,) = evaluator.run({"image": pixels}).values()
    np.testing.assert_array_equal(result, pixels * np.array([1, 2, 3]).reshape(1, 3, 1, 1))
    for wrong in (pixels.astype(np.float32), pixels[0], pixels.transpose(0, 1, 3, 2)):
        with pytest.raises(InputError, match=r"'image' is RGB image\[1, 3, 2, 4\], to be given as pixels of uint8"):
            evaluator.run({"image": wrong})


def test_a_program_of_every_shape_operation_agrees_with_numpy(tmp_path: Path) -> None:
    """Integers and floats through saved programs: what the builder adds to them is evaluated too."""

    def build(x: Any) -> Any:
        halves = mb.split(x=mb.transpose(x=x, perm=[1, 0]), num_splits=2, axis=0)
        joined = mb.concat(values=[halves[1], halves[0]], axis=1)
        best = mb.reduce_argmax(x=joined, axis=1, name="best")
        return joined, mb.cast(x=mb.add(x=best, y=np.int32(1)), dtype="fp16", name="after")

    x = np.random.default_rng(3).standard_normal((3, 4)).astype(np.float32)
    path = save(tmp_path / "shapes.mlpackage", {"x": tensor_input((3, 4), types.fp32)}, build)
    outputs = list(Evaluator(path).run({"x": x}).values())
    joined = np.concatenate([x.T[2:], x.T[:2]], 1)
    np.testing.assert_array_equal(outputs[0], joined)
    np.testing.assert_array_equal(outputs[1], joined.argmax(1) + 1)
