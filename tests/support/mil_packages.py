"""Packages for the tests of `edgeqkv.mil`, built with coremltools' MIL builder."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from edgeqkv.backends.coreml._compat import import_coremltools, quietly

ct = import_coremltools("The test suite")
mb, types = ct.converters.mil.Builder, ct.converters.mil.mil.types

Build = Callable[..., Any]
MODEL = "Data/com.apple.CoreML/model.mlmodel"
WEIGHTS = "Data/com.apple.CoreML/weights/weight.bin"
CAPACITY = 8
# Large enough for the weight file: constants of ten elements or fewer are kept in the program.
TABLE = (np.arange(64, dtype=np.float16) / 7).reshape(16, 4)


def save(path: Path, features: Mapping[str, Any], build: Build, images: tuple[Any, ...] = (), **options: Any) -> Path:
    """A package with one function, "main", whose body is what ``build`` makes of the inputs."""
    function = ct.converters.mil.mil.Function(dict(features), opset_version=ct.target.iOS18)
    with function:
        built = build(**function.inputs)
        function.set_outputs(list(built) if isinstance(built, tuple) else [built])
    if images:
        function.set_input_types(images)
    program = ct.converters.mil.mil.Program()
    program.add_function("main", function)
    with quietly():
        model = ct.convert(
            program,
            minimum_deployment_target=ct.target.iOS18,
            compute_precision=ct.precision.FLOAT32,
            skip_model_load=True,
            **options,
        )
    model.save(str(path))
    return path


def merge(path: Path, functions: Mapping[str, Path]) -> Path:
    """A package with several functions, the first of which is the default."""
    descriptor = ct.utils.MultiFunctionDescriptor()
    for name, source in functions.items():
        descriptor.add_function(str(source), "main", name)
    descriptor.default_function_name = next(iter(functions))
    with quietly():
        ct.utils.save_multifunction(descriptor, str(path))
    return path


def tensor_input(shape: tuple[Any, ...], dtype: Any = None) -> Any:
    return mb.placeholder(shape, dtype or types.fp16)


def state_input(shape: tuple[int, ...]) -> Any:
    return mb.state_tensor_placeholder(shape, types.fp16)


def edit(package: Path, change: Callable[[Any], None]) -> Path:
    """Rewrites the model file as ``change`` leaves the specification."""
    spec = ct.proto.Model_pb2.Model()
    spec.ParseFromString((package / MODEL).read_bytes())
    change(spec)
    (package / MODEL).write_bytes(spec.SerializeToString())
    return package


def operations(spec: Any, function: str = "main") -> Any:
    body = spec.mlProgram.functions[function]
    return body.block_specializations[body.opset].operations


def append_rows(rows: int) -> Build:
    """Looks tokens up, appends what it finds to a cache, and sums the cache."""

    def build(tokens: Any, position: Any, cache: Any) -> Any:
        found = mb.gather(x=TABLE, indices=tokens, axis=0, validate_indices=False)
        zero = np.zeros(1, np.int32)
        begin = mb.concat(values=[position, zero], axis=0)
        end = mb.concat(values=[mb.add(x=position, y=np.int32(rows)), np.full(1, 4, np.int32)], axis=0)
        updated = mb.slice_update(x=mb.read_state(input=cache), update=found, begin=begin, end=end)
        written = mb.coreml_update_state(state=cache, value=updated)
        return mb.reduce_sum(x=written, axes=[0], keep_dims=False, name="total")

    return build


def cache_inputs(rows: int) -> dict[str, Any]:
    return {
        "tokens": tensor_input((rows,), types.int32),
        "position": tensor_input((1,), types.int32),
        "cache": state_input((CAPACITY, 4)),
    }


def tokens_at(position: int, *tokens: int) -> dict[str, np.ndarray]:
    return {"tokens": np.array(tokens, np.int32), "position": np.array([position], np.int32)}


@cache
def _folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="mil-packages-"))
    atexit.register(shutil.rmtree, folder)
    return folder


@cache
def merged_package() -> Path:
    """Two functions, "decode" and "prefill", over one state and one table."""
    prefill = save(_folder() / "prefill.mlpackage", cache_inputs(3), append_rows(3))
    decode = save(_folder() / "decode.mlpackage", cache_inputs(1), append_rows(1))
    return merge(_folder() / "merged.mlpackage", {"decode": decode, "prefill": prefill})


@cache
def product_package() -> Path:
    """y = x @ TABLE.T, and its square."""

    def build(x: Any) -> Any:
        y = mb.linear(x=x, weight=TABLE, name="y")
        return y, mb.mul(x=y, y=y, name="squared")

    return save(_folder() / "product.mlpackage", {"x": tensor_input((2, 4))}, build)


@cache
def colors_package() -> Path:
    """An image of 2 × 4 pixels, its channels times 1, 2 and 3."""
    factors = np.array([1, 2, 3], np.float32).reshape(1, 3, 1, 1)
    image = ct.ImageType("image", shape=(1, 3, 2, 4), color_layout=ct.colorlayout.RGB, channel_first=True)
    features = {"image": tensor_input((1, 3, 2, 4), types.fp32)}
    return save(_folder() / "colors.mlpackage", features, lambda image: mb.mul(x=image, y=factors), (image,))


def tensor(values: Any, dtype: Any = np.int32) -> torch.Tensor:
    """An operand of an operation."""
    return torch.from_numpy(np.asarray(values, dtype))
