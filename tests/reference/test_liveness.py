"""Liveness, by hand."""

from __future__ import annotations

from edgeqkv.reference.liveness import Step, peak


def test_inputs_and_outputs_of_an_operation_live_together() -> None:
    steps = [Step("a", (), {"x": 10}), Step("b", ("x",), {"y": 20}), Step("c", ("y",), {"z": 5})]
    assert peak(steps).bytes == 30
    assert peak(steps).at == "b"


def test_a_value_lives_until_its_last_use() -> None:
    steps = [Step("a", (), {"x": 10}), Step("b", ("x",), {"y": 20}), Step("c", ("x", "y"), {"z": 5})]
    assert peak(steps).bytes == 35


def test_a_reshape_takes_nothing_and_keeps_its_source_alive() -> None:
    steps = [
        Step("a", (), {"x": 10}),
        Step("reshape", ("x",), {"v": 10}, alias="x"),
        Step("reshape again", ("v",), {"w": 10}, alias="v"),
        Step("b", (), {"y": 7}),
        Step("c", ("w", "y"), {"z": 1}),
    ]
    assert peak(steps).bytes == 18


def test_bound_outputs_are_counted_elsewhere() -> None:
    steps = [Step("a", (), {"x": 10}), Step("b", ("x",), {"y": 90})]
    assert peak(steps, frozenset({"y"})).bytes == 10


def test_nothing_lives_in_an_empty_graph() -> None:
    assert peak([]).bytes == 0
