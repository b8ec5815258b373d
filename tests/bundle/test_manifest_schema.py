"""The published schema is of this code's records, and is no looser than they are where readers depend on it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from edgeqkv.bundle.manifest import FORMAT
from edgeqkv.bundle.schema import json_schema

ROOT = Path(__file__).parents[2]
SCHEMA = json.loads(json_schema())

STATE = {"dtype": "fp32", "numpy_dtype": "float32", "name": "kv_0", "role": "kv", "layer": 0, "shape": [1, 2, 64, 8]}
STATE |= {"ring": False, "update": "in_place", "input": "past_kv_0", "output": "present_kv_0", "aliases": []}
TENSOR = {"dtype": "int64", "numpy_dtype": "int64", "name": "ids", "shape": [1, "tokens"], "role": "tokens"}


def valid(record: str, content: dict[str, Any]) -> bool:
    schema = {"$ref": f"#/$defs/{record}", "$defs": SCHEMA["$defs"]}
    return bool(jsonschema.Draft202012Validator(schema).is_valid(content))


def test_what_is_published_is_of_this_version() -> None:
    """Whoever changes a record writes the schema anew: python -m edgeqkv.bundle.schema > docs/manifest.schema.json"""
    assert (ROOT / "docs" / "manifest.schema.json").read_text(encoding="utf-8") == json_schema()


def test_it_is_a_schema_of_one_format() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert SCHEMA["$id"].endswith(f":{FORMAT}")
    assert SCHEMA["properties"]["format"]["const"] == FORMAT
    assert f"format {FORMAT}" in (ROOT / "docs" / "bundle.md").read_text(encoding="utf-8").splitlines()[0]


def test_it_takes_what_is_written() -> None:
    assert valid("StateTensor", STATE)
    assert valid("TensorSpec", TENSOR)


@pytest.mark.parametrize(
    "wrong",
    [{"dtype": "float32"}, {"numpy_dtype": "fp32"}, {"update": "sometimes"}, {"shape": [1, 0]}, {"shape": "1x2"}],
    ids=["dtype", "numpy_dtype", "update", "empty", "text"],
)
def test_it_refuses_what_no_reader_understands(wrong: dict[str, Any]) -> None:
    assert not valid("StateTensor", STATE | wrong)


def test_it_knows_the_roles() -> None:
    assert not valid("TensorSpec", TENSOR | {"role": "input"})
    assert not valid("TensorSpec", {name: value for name, value in TENSOR.items() if name != "role"})
