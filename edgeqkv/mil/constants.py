"""The constants of a MIL function, read when first used and decompressed once for a package."""

from __future__ import annotations

from collections.abc import Hashable

import torch
from torch import Tensor

from edgeqkv.mil.errors import PackageError
from edgeqkv.mil.ops import OPS
from edgeqkv.mil.package import Constant, Function, Operand, Operation, Package
from edgeqkv.mil.weight_file import Blob

__all__ = ["ConstantPool", "Value"]

Value = Tensor | str

_STORED = {"fp16": torch.float16, "fp32": torch.float32}


class ConstantPool:
    """Constants by name.

    Uncompressed ones are views of the mapped weight file. Decompressed ones are rounded to their declared
    type, as on a device, in every precision: they are weights, not results.
    """

    def __init__(self, package: Package, function: Function) -> None:
        self._derived = package.derived
        self._operations = {
            op.name: op for op in function.operations if op.type == "const" or op.type.startswith("constexpr_")
        }
        self._values: dict[str, Value] = {}
        self._storages: set[int] = set()

    def __contains__(self, name: str) -> bool:
        return name in self._operations

    def holds(self, x: Tensor) -> bool:
        """Whether the tensor lies in the memory of a constant that has been read."""
        return x.untyped_storage().data_ptr() in self._storages

    def value(self, operand: Operand) -> Value:
        """The constant that an operand names, or is."""
        if operand.constant is not None:
            return self._keep(_read(operand.constant))
        if operand.name not in self._values:
            self._values[operand.name] = self._keep(self._load(self._operations[operand.name]))
        return self._values[operand.name]

    def _keep(self, value: Value) -> Value:
        if isinstance(value, Tensor):
            self._storages.add(value.untyped_storage().data_ptr())
        return value

    def _load(self, op: Operation) -> Value:
        if op.constant is not None:
            return _read(op.constant)
        key = self._key(Operand(name=op.name))
        if key not in self._derived:
            self._derived[key] = self._decompress(op)
        result: Tensor = self._derived[key]
        return result

    def _decompress(self, op: Operation) -> Tensor:
        (declared,) = op.outputs.values()
        # Not kept, as values are: nothing else will ask for codes and scales.
        operands = {parameter: self._operand(each) for parameter, (each,) in op.inputs.items()}
        try:
            result = OPS[op.type](**operands)
        except (RuntimeError, IndexError, ValueError) as error:
            raise PackageError(f"{op.type} {op.name!r} cannot be decompressed: {error}") from error
        if isinstance(result, tuple) or not declared.accepts(result.shape):
            raise PackageError(f"{op.type} {op.name!r} is declared {declared}, but is not of that shape")
        return result.to(_STORED.get(declared.dtype, result.dtype))

    def _operand(self, operand: Operand) -> Value:
        if operand.constant is not None:
            return _read(operand.constant)
        return self._load(self._operations[operand.name])

    def _key(self, operand: Operand) -> Hashable:
        """What a constant is made from: equal for functions that share it in the weight file."""
        if operand.constant is not None:
            return _identity(operand.constant)
        op = self._operations[operand.name]
        if op.constant is not None:
            return _identity(op.constant)
        return op.type, tuple((name, self._key(each)) for name, (each,) in sorted(op.inputs.items()))


def _read(constant: Constant) -> Value:
    if isinstance(constant, str):
        return constant
    return torch.from_numpy(constant.read() if isinstance(constant, Blob) else constant)


def _identity(constant: Constant) -> Hashable:
    if isinstance(constant, str):
        return constant
    if isinstance(constant, Blob):
        return constant.path, constant.offset
    return constant.dtype.str, constant.shape, constant.tobytes()
