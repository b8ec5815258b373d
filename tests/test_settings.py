"""Every number that can be set has its range, in Python as on the command line."""

from __future__ import annotations

import dataclasses
import inspect
import math
from typing import Any, get_args, get_type_hints

import numpy as np
import pytest

import edgeqkv
from edgeqkv.cli.app import app
from edgeqkv.errors import InputError
from edgeqkv.pipeline.spec import ExportSpec
from edgeqkv.run.generate import Sampling
from edgeqkv.settings import SETTINGS, check

NO_NUMBER = [math.nan, math.inf, -math.inf, "1", b"1", [1], {}, True, 1j]


@pytest.mark.parametrize("name", SETTINGS)
def test_what_is_beyond_a_range_is_named_with_it(name: str) -> None:
    setting = SETTINGS[name]
    least = setting.least
    inside = [least, setting.most, 2**62 if setting.most is None else None]
    outside = [least - 1, -(10**400), *NO_NUMBER, *([setting.most * 2, 10**400] if setting.most is not None else [])]
    outside += [least + 0.5] if setting.whole else []
    if setting.above:
        inside, outside = [setting.most, least + 1e-300], [*outside, least]
    for value in inside:
        check(name, value)
    for value in outside:
        with pytest.raises(InputError, match=r"; choose (a whole number, )?(above )?-?[\d.]+ (to \d+|or more)$"):
            check(name, value)


def test_a_bound_of_the_models() -> None:
    check("context", 64, 64)
    check("context", np.int64(64), 64)
    with pytest.raises(InputError, match="a context of 65 is impossible"):
        check("context", np.int64(65), 64)
    with pytest.raises(InputError, match="a context of 65 is impossible: 64 positions; choose 1 to 64"):
        check("context", 65, 64, ": 64 positions")
    with pytest.raises(InputError, match=r"a context of about 2\^1329 is impossible; choose 1 to 64"):
        check("context", 10**400, 64)


def numeric(annotation: str) -> bool:
    return any(kind in annotation for kind in ("int", "float")) and "str" not in annotation


def test_every_number_in_python_has_a_range() -> None:
    """But for ids, which are tokens and no quantities."""
    fields = {field.name: str(field.type) for kind in (ExportSpec, Sampling) for field in dataclasses.fields(kind)}
    for function in (edgeqkv.load, edgeqkv.export, edgeqkv.bench, edgeqkv.budget):
        fields |= {name: str(each.annotation) for name, each in inspect.signature(function).parameters.items()}
    assert {name for name, annotation in fields.items() if numeric(annotation)} - SETTINGS.keys() == set()


def test_every_number_on_the_command_line_has_a_range() -> None:
    hints = [get_type_hints(command.callback) for command in app.registered_commands]
    numbers = {name for each in hints for name, kind in each.items() if {int, float} & {kind, *get_args(kind)}}
    assert {"context", "temperature", "seed"} <= numbers
    assert numbers - SETTINGS.keys() == set()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: edgeqkv.load("nowhere.pt", heads=0), "0 attention heads are impossible; choose 1 to 65536"),
        (lambda: edgeqkv.load("nowhere.pt", heads=10**9), "attention heads are impossible"),
        (lambda: edgeqkv.bench("nowhere", prompt=0), "prompt 0 is impossible"),
        (lambda: edgeqkv.bench("nowhere", repeats=10**30), r"repeats about 2\^100 is impossible"),
        (lambda: edgeqkv.bench("nowhere", generate=1.5), "generate 1.5 is impossible"),  # type: ignore[arg-type]
    ],
)
def test_a_number_is_looked_at_before_anything_is_opened(call: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()
