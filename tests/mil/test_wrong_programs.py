"""Programs that are not what was built: what was changed on disk is seen."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mil_packages import (
    TABLE,
    WEIGHTS,
    ct,
    edit,
    operations,
    tokens_at,
)

from edgeqkv.mil import (
    Evaluator,
    PackageError,
    UnsupportedOperation,
)

pytest_plugins = ("mil_fixtures",)


def test_a_flipped_bit_in_the_weights_is_seen(product: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(product, tmp_path / "copy.mlpackage"))
    x = {"x": np.ones((2, 4), np.float32)}
    before = Evaluator(copy).run(x)["y"]
    stored = bytearray((copy / WEIGHTS).read_bytes())
    stored[stored.index(TABLE.tobytes()) + 2 * 9] ^= 0x80  # the ninth weight
    (copy / WEIGHTS).write_bytes(stored)
    changed = Evaluator(copy).run(x)["y"] != before
    assert changed[:, 2].all()
    assert changed.sum() == 2


def test_a_swapped_function_is_seen(merged: Path) -> None:
    def swap(spec: Any) -> None:
        functions = spec.mlProgram.functions
        functions["decode"].CopyFrom(functions["prefill"])

    evaluator = Evaluator(edit(merged, swap), "decode")
    with pytest.raises(PackageError, match="is declared"):
        evaluator.run(tokens_at(0, 5), evaluator.new_state())


def test_a_dropped_state_write_is_seen(merged: Path) -> None:
    def drop(spec: Any) -> None:
        ops = operations(spec, "decode")
        del ops[next(index for index, op in enumerate(ops) if op.type == "write_state")]

    evaluator = Evaluator(edit(merged, drop), "decode")
    state = evaluator.new_state()
    total = evaluator.run(tokens_at(0, 5), state)["total"]
    assert not total.any()
    assert not state.read_state("cache").any()


def test_a_wrong_declaration_is_seen(product: Path, tmp_path: Path) -> None:
    def declare(change: Callable[[Any], None]) -> Evaluator:
        shutil.rmtree(tmp_path / "copy.mlpackage", ignore_errors=True)
        copy = Path(shutil.copytree(product, tmp_path / "copy.mlpackage"))

        def change_output(spec: Any) -> None:
            change(next(op for op in operations(spec) if op.type == "mul").outputs[0].type.tensorType)

        return Evaluator(edit(copy, change_output))

    def wider(declared: Any) -> None:
        declared.dimensions[1].constant.size = 17

    def integral(declared: Any) -> None:
        declared.dataType = ct.proto.MIL_pb2.INT32

    def longer(declared: Any) -> None:
        declared.dataType = ct.proto.MIL_pb2.FLOAT32

    x = {"x": np.ones((2, 4), np.float32)}
    with pytest.raises(PackageError, match=r"mul 'squared': it is declared fp16\[2, 17\], .* \[2, 16\]"):
        declare(wider).run(x)
    with pytest.raises(PackageError, match="declared int32"):
        declare(integral).run(x)
    with pytest.raises(PackageError, match=r"is declared fp32.* but computes fp16"):
        declare(longer)


def test_unknown_operations_are_all_named(product: Path, tmp_path: Path) -> None:
    def rename(spec: Any) -> None:
        for op in operations(spec):
            op.type = {"mul": "multiply", "linear": "affine"}.get(op.type, op.type)

    copy = edit(Path(shutil.copytree(product, tmp_path / "copy.mlpackage")), rename)
    with pytest.raises(UnsupportedOperation, match="affine, multiply"):
        Evaluator(copy)


def test_unknown_parameters_are_refused(product: Path, tmp_path: Path) -> None:
    def add(spec: Any) -> None:
        op = next(op for op in operations(spec) if op.type == "mul")
        op.inputs["z"].CopyFrom(op.inputs["x"])

    copy = edit(Path(shutil.copytree(product, tmp_path / "copy.mlpackage")), add)
    with pytest.raises(UnsupportedOperation, match=r"mul 'squared'.*'z'"):
        Evaluator(copy)


def test_an_undefined_value_is_seen(product: Path, tmp_path: Path) -> None:
    def rename(spec: Any) -> None:
        next(op for op in operations(spec) if op.type == "mul").inputs["x"].arguments[0].name = "nothing"

    copy = edit(Path(shutil.copytree(product, tmp_path / "copy.mlpackage")), rename)
    with pytest.raises(PackageError, match="'nothing'"):
        Evaluator(copy)
