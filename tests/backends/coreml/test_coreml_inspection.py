"""What a Core ML package says of itself, whoever made it."""

from __future__ import annotations

from mil_packages import merged_package, product_package

from edgeqkv.backends import backend


def test_functions_states_and_operators() -> None:
    facts = backend("coreml").inspect(merged_package())
    assert [function.name for function in facts.functions] == ["decode", "prefill"]
    decode = facts.functions[0]
    assert decode.states
    assert decode.operators["read_state"] >= 1
    assert "const" not in decode.operators
    assert facts.bytes == sum(file.stat().st_size for file in merged_package().rglob("*") if file.is_file())


def test_a_plain_one() -> None:
    (function,) = backend("coreml").inspect(product_package()).functions
    assert function.operators == {"linear": 1, "mul": 1}
    assert set(function.outputs) == {"y", "squared"}
    assert not function.states
