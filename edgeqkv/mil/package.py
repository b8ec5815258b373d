"""Reads a saved Core ML package (``.mlpackage`` holding an ML Program) into plain dataclasses.

A package is a directory: ``Manifest.json`` names the model file, a protobuf (``Model.proto`` and
``MIL.proto`` of the Core ML format specification), and beside the model lies ``weights/weight.bin``,
which holds the large constants. Weight files are memory-mapped, so opening a package costs no memory
in proportion to its weights, and every function of it shares one mapping.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeqkv.mil.errors import InputError, PackageError, UnsupportedOperation
from edgeqkv.mil.proto import messages
from edgeqkv.mil.weight_file import DTYPES, Array, Blob, WeightFile, unpack

__all__ = ["Constant", "FeatureSpec", "Function", "Operand", "Operation", "Package", "TensorType"]

Constant = Array | Blob | str
"""A constant of the program: small ones are arrays or strings, large ones lie in a weight file."""

_CHANNELS = {"GRAYSCALE": 1, "RGB": 3, "BGR": 3}


@dataclass(frozen=True)
class TensorType:
    """What the program declares a value to be; a dimension that is known only at run time is None."""

    dtype: str
    shape: tuple[int | None, ...]

    def __str__(self) -> str:
        return f"{self.dtype}[{', '.join('?' if size is None else str(size) for size in self.shape)}]"

    def accepts(self, shape: Iterable[int]) -> bool:
        """Whether a tensor of this shape is one that was declared."""
        sizes = tuple(shape)
        return len(sizes) == len(self.shape) and all(
            declared in (None, size) for declared, size in zip(self.shape, sizes, strict=True)
        )


@dataclass(frozen=True)
class FeatureSpec:
    """An input, output or state of a function, as its caller sees it.

    Attributes:
        dtype: of what the program gets or gives.
        shape: the shape, or for a flexible input the default one.
        ranges: the least and greatest size of each dimension (None: no bound), if they are ranges.
        choices: the shapes to choose from, if they are enumerated.
        image: "RGB", "BGR" or "GRAYSCALE", if the caller passes an image. The program gets its pixels, 0 to 255, as
            ``[1, channels, height, width]``, the channels in this order.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    ranges: tuple[tuple[int, int | None], ...] = ()
    choices: tuple[tuple[int, ...], ...] = ()
    image: str = ""

    def accepts(self, shape: tuple[int, ...]) -> bool:
        """Whether a tensor of this shape may be passed."""
        if self.choices:
            return shape in self.choices
        if not self.ranges:
            return shape == self.shape
        return len(shape) == len(self.ranges) and all(
            low <= size and (high is None or size <= high) for size, (low, high) in zip(shape, self.ranges, strict=True)
        )

    def __str__(self) -> str:
        if self.image:
            return f"{self.image} image{list(self.shape)}"
        if self.choices:
            return f"{self.dtype}, one of {', '.join(map(str, self.choices))}"
        if self.ranges:
            return f"{self.dtype}[{', '.join(_range_text(*bounds) for bounds in self.ranges)}]"
        return f"{self.dtype}{list(self.shape)}"


@dataclass(frozen=True)
class Operand:
    """An argument of an operation: the name of a value, or a constant given in place."""

    name: str = ""
    constant: Constant | None = None


@dataclass(frozen=True)
class Operation:
    """One operation; it is called by the name of its first result, which is unique in the function."""

    type: str
    name: str
    inputs: dict[str, tuple[Operand, ...]]
    outputs: dict[str, TensorType]
    constant: Constant | None = None


@dataclass(frozen=True)
class Function:
    """One function of a program: its features, and its operations in order of execution."""

    name: str
    opset: str
    inputs: dict[str, FeatureSpec]
    outputs: dict[str, FeatureSpec]
    states: dict[str, FeatureSpec]
    operations: tuple[Operation, ...]


class Package:
    """A saved ML Program.

    Attributes:
        functions: by name.
        default_function: the function that Core ML runs unless told otherwise.
        metadata: author, license, description and version where given, and the user-defined entries.
        derived: what evaluators computed from the constants (decompressed weights), kept so that the
            evaluators of one package share it.

    Raises:
        PackageError: the package is missing, incomplete or damaged.
        UnsupportedOperation: it holds something other than an ML Program, or features that are neither tensors nor
            images.
        ModuleNotFoundError: coremltools, which has the format's messages, is not installed.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._model_file = _find_model_file(self.path)
        self._weight_files: dict[str, WeightFile] = {}
        self._mil = messages("MIL_pb2")
        model = messages("Model_pb2").Model()
        try:
            model.ParseFromString(self._model_file.read_bytes())
        except Exception as error:  # protobuf's DecodeError differs between its implementations
            raise PackageError(f"{self._model_file} is not a Core ML model: {error}") from error
        if model.WhichOneof("Type") != "mlProgram":
            raise UnsupportedOperation(
                f"{self.path} holds a model of type {model.WhichOneof('Type')}; only ML Programs can be read"
            )
        self.derived: dict[object, Any] = {}
        self.metadata = _metadata(model.description.metadata)
        self.default_function: str = model.description.defaultFunctionName or "main"
        descriptions = {each.name: each for each in model.description.functions}
        self.functions = {
            name: self._function(name, spec, descriptions.get(name, model.description))
            for name, spec in sorted(model.mlProgram.functions.items())
        }

    def function(self, name: str | None = None) -> Function:
        """The function of this name, or the default one.

        Raises:
            InputError: there is no such function.
        """
        wanted = name or self.default_function
        if wanted not in self.functions:
            raise InputError(
                f"{self.path.name} has no function {wanted!r}; it has {', '.join(map(repr, self.functions))}"
            )
        return self.functions[wanted]

    def _function(self, name: str, spec: Any, description: Any) -> Function:
        if spec.opset not in spec.block_specializations:
            raise PackageError(f"function {name!r} of {self.path} has no body for its opset {spec.opset!r}")
        declared = {each.name: each.type for each in spec.inputs}
        types = {key: self._tensor_type(value) for key, value in declared.items() if _is(value, "tensorType")}
        states = {feature.name: _feature(feature, None) for feature in description.state}
        unlisted = [key for key, value in declared.items() if _is(value, "stateType") and key not in states]
        if unlisted:
            # Core ML refuses such a model when it loads it.
            raise PackageError(f"function {name!r} of {self.path} does not list its states {unlisted}")
        return Function(
            name=name,
            opset=spec.opset,
            inputs={each.name: _feature(each, types.get(each.name)) for each in description.input},
            outputs={each.name: _feature(each, None) for each in description.output},
            states=states,
            operations=tuple(map(self._operation, spec.block_specializations[spec.opset].operations)),
        )

    def _operation(self, op: Any) -> Operation:
        name = op.outputs[0].name if op.outputs else op.type
        return Operation(
            type=op.type,
            name=name,
            inputs={
                parameter: tuple(self._operand(each) for each in argument.arguments)
                for parameter, argument in op.inputs.items()
            },
            outputs={output.name: self._tensor_type(output.type, name) for output in op.outputs},
            constant=self._constant(op.attributes["val"]) if op.type == "const" else None,
        )

    def _operand(self, argument: Any) -> Operand:
        if argument.WhichOneof("binding") == "name":
            return Operand(name=argument.name)
        return Operand(constant=self._constant(argument.value))

    def _tensor_type(self, value_type: Any, name: str = "") -> TensorType:
        if not _is(value_type, "tensorType"):
            raise UnsupportedOperation(f"value {name!r} is a {value_type.WhichOneof('type')}; only tensors are read")
        tensor = value_type.tensorType
        return TensorType(
            self._mil.DataType.Name(tensor.dataType).replace("FLOAT", "fp").lower(),
            tuple(
                dimension.constant.size if dimension.WhichOneof("dimension") == "constant" else None
                for dimension in tensor.dimensions
            ),
        )

    def _constant(self, value: Any) -> Constant:
        declared = self._tensor_type(value.type)
        if declared.dtype not in (*DTYPES, "string"):
            raise UnsupportedOperation(f"constants of type {declared.dtype} cannot be read")
        shape = tuple(size or 0 for size in declared.shape)
        if value.WhichOneof("value") == "blobFileValue":
            return self._weight_file(value.blobFileValue.fileName).blob(
                value.blobFileValue.offset, declared.dtype, shape
            )
        tensor = value.immediateValue.tensor
        field = tensor.WhichOneof("value")
        if field is None:
            raise PackageError(f"{self._model_file} is damaged: a constant {declared} has no value")
        values = getattr(tensor, field).values
        if declared.dtype == "string":
            return str(values[0])
        dtype = DTYPES[declared.dtype]
        if isinstance(values, bytes):
            return unpack(values, dtype, shape)
        return dtype.array(values).reshape(shape)

    def _weight_file(self, name: str) -> WeightFile:
        if name not in self._weight_files:
            relative = name.removeprefix("@model_path/")
            self._weight_files[name] = WeightFile(_inside(self.path, self._model_file.parent, relative))
        return self._weight_files[name]


def _find_model_file(package: Path) -> Path:
    manifest = package / "Manifest.json"
    if not package.exists():
        raise PackageError(f"there is no Core ML package at {package}")
    if not manifest.is_file():
        raise PackageError(f"{package} is not a Core ML package: it has no Manifest.json")
    try:
        entries = json.loads(manifest.read_text(encoding="utf-8"))
        item: object = entries["itemInfoEntries"][entries["rootModelIdentifier"]]["path"]
    except (ValueError, KeyError, TypeError) as error:
        raise PackageError(
            f"{manifest} is damaged: it does not name the model file ({type(error).__name__}: {error!s:.100})"
        ) from error
    if not isinstance(item, str):
        raise PackageError(f"{manifest} is damaged: it does not name the model file ({item!r:.100})")
    model = _inside(package, package / "Data", item)
    if not model.is_file():
        raise PackageError(f"{package} is incomplete: {model.relative_to(package)} is missing")
    return model


def _inside(package: Path, folder: Path, name: str) -> Path:
    """The file of this name in a folder of the package.

    Raises:
        PackageError: the name leads out of the package.
    """
    file = folder / name
    if not name.isprintable() or ".." in file.parts[len(package.parts) :] or not file.is_relative_to(package):
        raise PackageError(f"{package} is damaged: it names the file {name!r}, which does not lie in it")
    return file


def _metadata(metadata: Any) -> dict[str, str]:
    given = {
        "author": metadata.author,
        "license": metadata.license,
        "description": metadata.shortDescription,
        "version": metadata.versionString,
    }
    return {key: value for key, value in given.items() if value} | dict(metadata.userDefined)


def _feature(description: Any, declared: TensorType | None) -> FeatureSpec:
    """The dtype is the program's own where known: Core ML converts what a caller passes to it."""
    kind = description.type.WhichOneof("Type")
    if kind == "imageType":
        return _image(description, declared)
    if kind not in ("multiArrayType", "stateType"):
        raise UnsupportedOperation(f"feature {description.name!r} is a {kind}; only tensors and images are supported")
    array = description.type.stateType.arrayType if kind == "stateType" else description.type.multiArrayType
    dtype = type(array).DESCRIPTOR.fields_by_name["dataType"].enum_type.values_by_number[array.dataType].name
    flexible = array.WhichOneof("ShapeFlexibility")
    ranges: tuple[tuple[int, int | None], ...] = ()
    choices: tuple[tuple[int, ...], ...] = ()
    if flexible == "shapeRange":
        bounds = array.shapeRange.sizeRanges
        ranges = tuple((each.lowerBound, each.upperBound if each.upperBound > 0 else None) for each in bounds)
    elif flexible == "enumeratedShapes":
        choices = tuple(tuple(each.shape) for each in array.enumeratedShapes.shapes)
    return FeatureSpec(
        name=description.name,
        dtype=declared.dtype if declared else dtype.replace("FLOAT", "fp").lower(),
        shape=tuple(array.shape),
        ranges=ranges,
        choices=choices,
    )


def _image(description: Any, declared: TensorType | None) -> FeatureSpec:
    image = description.type.imageType
    colors = type(image).DESCRIPTOR.fields_by_name["colorSpace"].enum_type.values_by_number[image.colorSpace].name
    if declared is None or colors not in _CHANNELS or image.WhichOneof("SizeFlexibility"):
        raise UnsupportedOperation(
            f"feature {description.name!r} is an image ({colors}); only inputs of one size are supported, of 8 bits a "
            f"channel ({', '.join(_CHANNELS)})"
        )
    shape = (1, _CHANNELS[colors], image.height, image.width)
    if not declared.accepts(shape):
        raise PackageError(f"feature {description.name!r} is an image {list(shape)}, but the program takes {declared}")
    return FeatureSpec(name=description.name, dtype=declared.dtype, shape=shape, image=colors)


def _is(value_type: Any, kind: str) -> bool:
    return bool(value_type.WhichOneof("type") == kind)


def _range_text(low: int, high: int | None) -> str:
    return str(low) if low == high else f"{low}..{'' if high is None else high}"
