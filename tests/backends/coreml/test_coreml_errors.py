"""What edgeqkv.mil raises, as edgeqkv's own errors."""

from __future__ import annotations

import inspect
import sys
from pathlib import Path

import pytest

from edgeqkv import mil
from edgeqkv.backends.coreml import TARGET
from edgeqkv.backends.coreml.errors import _OWN, mil_errors
from edgeqkv.errors import BundleError, EdgeQKVError, InputError, MissingExtra, UnsupportedError
from edgeqkv.mil import _compat, errors


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (mil.PackageError, BundleError),
        (mil.InputError, InputError),
        (mil.UnsupportedOperation, UnsupportedError),
        (mil.MilError, BundleError),
    ],
)
def test_an_error_means_the_same_and_says_the_same(raised: type[mil.MilError], expected: type[EdgeQKVError]) -> None:
    with pytest.raises(expected, match=r"^what was wrong$") as caught, mil_errors():
        raise raised("what was wrong")
    assert isinstance(caught.value.__cause__, raised)


def test_no_error_of_the_family_is_forgotten() -> None:
    family = {each for _, each in inspect.getmembers(errors, inspect.isclass) if issubclass(each, mil.MilError)}
    assert family == {*_OWN, mil.MilError}


def test_a_package_that_is_not_there_is_edgeqkvs_error(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="there is no Core ML package"):
        TARGET.examine(tmp_path / "none.mlpackage")


def test_coremltools_is_an_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tmp_path / "Data" / "model"
    model.parent.mkdir()
    model.touch()
    (tmp_path / "Manifest.json").write_text('{"rootModelIdentifier": "a", "itemInfoEntries": {"a": {"path": "model"}}}')
    monkeypatch.setitem(sys.modules, "coremltools", None)
    monkeypatch.delitem(sys.modules, _compat.PROTO, raising=False)
    with pytest.raises(MissingExtra, match=r"^Reading a Core ML package needs .*edgeqkv\[coreml\]"), mil_errors():
        mil.Package(tmp_path)
