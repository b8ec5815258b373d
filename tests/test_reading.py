from __future__ import annotations

from pathlib import Path

import pytest

from edgeqkv.errors import CheckpointError, InputError
from edgeqkv.reading import is_file, is_folder, of_field, reading, shown

FILE = Path("model.pt")


class PanicException(BaseException):
    """What a library in Rust raises, with nothing better above it."""


@pytest.mark.parametrize(
    ("raised", "message"),
    [
        (EOFError(), "model.pt is not JSON or is damaged: EOFError"),
        (RecursionError("too deep\nand so on"), "model.pt is not JSON or is damaged: too deep$"),
        (ValueError("x" * 9999), "is damaged: x{100,400}…$"),
        (OSError(5, "Input/output error"), "cannot read model.pt: Input/output error"),
        (PanicException("no\nway"), "model.pt is not JSON or is damaged: no$"),
    ],
)
def test_whatever_a_parser_raises_is_about_the_file(raised: BaseException, message: str) -> None:
    with pytest.raises(InputError, match=message) as error, reading(FILE, "JSON", InputError):
        raise raised
    assert error.value.__cause__ is raised


@pytest.mark.parametrize("raised", [KeyboardInterrupt(), SystemExit(3), CheckpointError("our own")])
def test_what_is_not_the_parsers_goes_through(raised: BaseException) -> None:
    with pytest.raises(type(raised)) as error, reading(FILE, "JSON", InputError):
        raise raised
    assert error.value is raised


def test_values_for_messages_are_short() -> None:
    deep: list[object] = []
    for _ in range(100_000):
        deep = [deep]
    assert shown(deep) == "a list"
    assert shown({}) == "a dict"
    assert shown(-(10**5000)) == "a number of about 5001 digits"
    assert shown(2**60) == str(2**60)
    assert len(shown("x" * 10**6)) == 80
    assert (shown(None), shown(True), shown(0.5)) == ("None", "True", "0.5")
    assert shown(1j) == "a complex"


def test_a_field_is_named_in_bearable_length() -> None:
    assert of_field((), "x") == "x"
    assert of_field(("a", 0, "b"), "Field required") == "a.0.b: Field required"
    assert len(of_field(["x" * 5000] * 50, "y" * 5000)) < 700


def test_a_path_that_the_system_refuses_is_nothing() -> None:
    for name in ("x" * 5000, "null\0character"):
        assert not is_file(name)
        assert not is_folder(name)
