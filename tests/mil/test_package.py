"""What is read of a package, and what is refused: damaged ones, and other kinds."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mil_packages import (
    MODEL,
    TABLE,
    WEIGHTS,
    ct,
    edit,
    operations,
    types,
)

from edgeqkv.mil import (
    Evaluator,
    Package,
    PackageError,
    UnsupportedOperation,
)
from edgeqkv.mil.weight_file import DTYPES, WeightFile

pytest_plugins = ("mil_fixtures",)


def test_what_a_package_says_of_itself(merged: Path) -> None:
    evaluator = Evaluator(merged)
    assert evaluator.function == "decode"
    assert evaluator.functions == ("decode", "prefill")
    assert {name: str(spec) for name, spec in evaluator.inputs.items()} == {
        "tokens": "int32[1]",
        "position": "int32[1]",
    }
    assert {name: str(spec) for name, spec in evaluator.outputs.items()} == {"total": "fp16[4]"}
    assert {name: str(spec) for name, spec in evaluator.states.items()} == {"cache": "fp16[8, 4]"}
    assert Package(merged).functions["prefill"].opset == "CoreML8"


def test_metadata(product: Path, tmp_path: Path) -> None:
    def describe(spec: Any) -> None:
        spec.description.metadata.author = "us"
        spec.description.metadata.userDefined["variant"] = "q-k=v"

    copy = edit(Path(shutil.copytree(product, tmp_path / "copy.mlpackage")), describe)
    metadata = Package(copy).metadata
    assert metadata["author"] == "us"
    assert metadata["variant"] == "q-k=v"


@pytest.mark.parametrize(
    ("dtype", "low", "high"),
    [
        ("uint1", 0, 2),
        ("uint2", 0, 4),
        ("uint3", 0, 8),
        ("uint4", 0, 16),
        ("uint6", 0, 64),
        ("int4", -8, 8),
        ("int8", -128, 128),
        ("uint8", 0, 256),
        ("int16", -999, 999),
        ("uint16", 0, 65536),
        ("int32", -9, 9),
    ],
)
def test_weight_files_as_coremltools_writes_them(tmp_path: Path, dtype: str, low: int, high: int) -> None:
    values = np.random.default_rng(2).integers(low, high, 15).astype(DTYPES[dtype].array_type)
    writer = ct.converters.mil.backend.mil.load.BlobWriter(str(tmp_path / "weight.bin"))
    subtype = types.nptype_from_builtin(types.string_to_builtin(dtype))
    offset = getattr(writer, f"write_{dtype}_data")(values.astype(subtype))
    weights = WeightFile(tmp_path / "weight.bin")
    np.testing.assert_array_equal(weights.blob(offset, dtype, (3, 5)).read(), values.reshape(3, 5))
    with pytest.raises(PackageError, match="is not one of fp16"):
        weights.blob(offset, "fp16", (3, 5))


def test_weights_are_mapped_not_copied(product: Path) -> None:
    package = Package(product)
    blob = next(
        op.constant
        for op in package.function().operations
        if op.constant is not None and getattr(op.constant, "shape", ()) == TABLE.shape
    )
    assert not isinstance(blob, str | np.ndarray)
    assert np.shares_memory(blob.read(), blob.read())


def _truncate(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "no package": (shutil.rmtree, "there is no Core ML package"),
    "no manifest": (lambda p: (p / "Manifest.json").unlink(), "no Manifest.json"),
    "a broken manifest": (lambda p: (p / "Manifest.json").write_text("{"), "does not name the model"),
    "a manifest that is no text": (
        lambda p: (p / "Manifest.json").write_bytes(b"\xff" * 99999),
        r"does not name the model file \(UnicodeDecodeError: .{1,100}\)$",
    ),
    "an empty manifest": (lambda p: (p / "Manifest.json").write_text(json.dumps({})), "does not name"),
    "no model": (lambda p: (p / MODEL).unlink(), "model.mlmodel is missing"),
    "a truncated model": (lambda p: _truncate(p / MODEL, 900), "is not a Core ML model"),
    "no weights": (lambda p: (p / WEIGHTS).unlink(), "weights cannot be read"),
    "empty weights": (lambda p: _truncate(p / WEIGHTS, 0), "weights cannot be read"),
    "half a header": (lambda p: _truncate(p / WEIGHTS, 40), "does not begin as a weight file"),
    "no record": (lambda p: _truncate(p / WEIGHTS, 64), "lies past its end"),
    "truncated weights": (lambda p: _truncate(p / WEIGHTS, 140), "ends past its end"),
    "no sentinel": (
        lambda p: (p / WEIGHTS).write_bytes((p / WEIGHTS).read_bytes()[:64] + bytes(1000)),
        "is not one of fp16",
    ),
}


@pytest.mark.parametrize(("damage", "message"), DAMAGES.values(), ids=DAMAGES.keys())
def test_damaged_packages(merged: Path, damage: Callable[[Path], object], message: str) -> None:
    damage(merged)
    with pytest.raises(PackageError, match=message):
        Evaluator(merged)


@pytest.mark.parametrize("elsewhere", ["../other.mlpackage/", "/", "a/../../../other.mlpackage/Data/"])
def test_files_outside_of_the_package_are_not_read(merged: Path, elsewhere: str) -> None:
    shutil.copytree(merged, merged.parent / "other.mlpackage")
    manifest = json.loads((merged / "Manifest.json").read_text())
    root = manifest["itemInfoEntries"][manifest["rootModelIdentifier"]]
    root["path"] = f"../{elsewhere}{root['path']}" if elsewhere != "/" else str(merged / MODEL)
    outside = json.dumps(manifest).replace(str(merged), str(merged.parent / "other.mlpackage"))
    (merged / "Manifest.json").write_text(outside)
    with pytest.raises(PackageError, match=r"names the file '.*', which does not lie in it"):
        Package(merged)


def test_weights_outside_of_the_package_are_not_read(merged: Path) -> None:
    def point_outside(spec: Any) -> None:
        for op in operations(spec, "decode"):
            value = op.attributes["val"] if op.type == "const" else None
            if value is not None and value.WhichOneof("value") == "blobFileValue":
                value.blobFileValue.fileName = "@model_path/../../../other.mlpackage/" + WEIGHTS

    shutil.copytree(merged, merged.parent / "other.mlpackage")
    with pytest.raises(PackageError, match=r"names the file '\.\./.*', which does not lie in it"):
        Package(edit(merged, point_outside))


def test_a_pipe_is_not_waited_for(merged: Path) -> None:
    (merged / WEIGHTS).unlink()
    os.mkfifo(merged / WEIGHTS)
    with pytest.raises(PackageError, match="weights cannot be read: there is no file"):
        Package(merged)


def test_a_resized_weight_is_seen(product: Path, tmp_path: Path) -> None:
    def grow(spec: Any) -> None:
        for op in operations(spec):
            value = op.attributes["val"] if op.type == "const" else None
            if value is not None and value.WhichOneof("value") == "blobFileValue":
                value.type.tensorType.dimensions[0].constant.size = 15

    copy = edit(Path(shutil.copytree(product, tmp_path / "copy.mlpackage")), grow)
    with pytest.raises(PackageError, match=r"has 128 bytes, which are not fp16\[15, 4\]"):
        Evaluator(copy)


def test_an_unlisted_state_is_seen(merged: Path) -> None:
    def unlist(spec: Any) -> None:
        for function in spec.description.functions:
            del function.state[:]

    with pytest.raises(PackageError, match="does not list its states"):
        Evaluator(edit(merged, unlist))


def test_other_kinds_of_model_are_refused(product: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(product, tmp_path / "copy.mlpackage"))
    edit(copy, lambda spec: spec.neuralNetwork.SetInParent())
    with pytest.raises(UnsupportedOperation, match="type neuralNetwork"):
        Evaluator(copy)


def test_images_of_other_kinds_are_refused(colors: Path, product: Path, tmp_path: Path) -> None:
    def image(spec: Any) -> Any:
        return spec.description.input[0].type.imageType

    edit(colors, lambda spec: setattr(image(spec), "width", 5))
    with pytest.raises(PackageError, match=r"an image \[1, 3, 2, 5\], but the program takes fp32\[1, 3, 2, 4\]"):
        Evaluator(colors)
    edit(colors, lambda spec: image(spec).imageSizeRange.widthRange.SetInParent())
    with pytest.raises(UnsupportedOperation, match="only inputs of one size"):
        Evaluator(colors)
    copy = Path(shutil.copytree(product, tmp_path / "product.mlpackage"))
    edit(copy, lambda spec: image(spec).SetInParent())
    with pytest.raises(UnsupportedOperation, match=r"'x' is an image .INVALID_COLOR_SPACE"):
        Evaluator(copy)
    edit(copy, lambda spec: spec.description.input[0].type.stringType.SetInParent())
    with pytest.raises(UnsupportedOperation, match="'x' is a stringType; only tensors and images"):
        Evaluator(copy)
