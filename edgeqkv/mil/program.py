"""A MIL function compiled for evaluation: constants resolved, names replaced by slots, lifetimes known."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from edgeqkv.mil.constants import ConstantPool, Value
from edgeqkv.mil.errors import MilError, PackageError, UnsupportedOperation
from edgeqkv.mil.ops import MOVING, OPS
from edgeqkv.mil.ops_linear import attention_scores
from edgeqkv.mil.ops_shape import assign_slice
from edgeqkv.mil.package import Function, Operand, Operation, Package, TensorType

__all__ = ["FP16_MAX", "Peak", "Precision", "Program", "held"]

Precision = Literal["fp32", "fp16"]

FP16_MAX = 65504.0
_ROUNDS_TO_INFINITY = 65520.0
"""The least magnitude that rounds to an infinity in fp16."""

_NARROW = {"int8": torch.int8, "uint8": torch.uint8, "int16": torch.int16, "uint16": torch.uint16}


@dataclass
class Peak:
    """The largest magnitude that an operation produced, over all runs so far.

    Attributes:
        type: the operation's MIL type.
        largest: of the finite results, before they are rounded.
        overflowed: a finite result was rounded to an fp16 infinity (precision "fp16" only).
        nonfinite: a result was infinite or not a number before it was rounded.
        limit: the largest number that is of use.
    """

    type: str
    largest: float = 0.0
    overflowed: bool = False
    nonfinite: bool = False
    limit: float = FP16_MAX

    @property
    def headroom(self) -> float:
        """How many times larger the results could be and still be of use (fp16 numbers); below 1, they are not."""
        return self.limit / self.largest if self.largest else math.inf

    def observe(self, result: Tensor, rounded_to_fp16: bool) -> None:
        """Takes a result into account."""
        if not result.numel():
            return
        low, high = (float(bound) for bound in torch.aminmax(result))
        largest = max(-low, high)
        if not math.isfinite(largest):
            self.nonfinite = True
            finite = result[torch.isfinite(result)]
            largest = float(finite.abs().max()) if finite.numel() else 0.0
        self.largest = max(self.largest, largest)
        self.overflowed |= rounded_to_fp16 and largest >= _ROUNDS_TO_INFINITY


def held(x: Tensor, dtype: str, precision: Precision) -> Tensor:
    """The tensor in the type in which a value declared ``dtype`` is held between operations.

    fp16 values are held in fp32 where the precision is fp32. Integers are held in int32, wrapped to
    their declared width.
    """
    if dtype in ("fp16", "fp32"):
        return x.to(torch.float16 if dtype == precision == "fp16" else torch.float32)
    if dtype == "bool":
        return x
    return x.to(_NARROW[dtype]).to(torch.int32) if dtype in _NARROW else x.to(torch.int32)


@dataclass
class _Frame:
    """One run: the live values by slot, the states as they were, and those written so far."""

    values: list[Tensor | None]
    states: Mapping[str, Tensor]
    written: dict[str, Tensor] = field(default_factory=dict)

    def get(self, slot: int) -> Tensor:
        value = self.values[slot]
        if value is None:
            raise PackageError("it uses a value that no earlier operation computes")
        return value

    def owns(self, slot: int) -> bool:
        """Whether nothing else that is live, and no state, lies in the memory of this slot's value."""
        storage = self.get(slot).untyped_storage().data_ptr()
        others = [value for other, value in enumerate(self.values) if other != slot and value is not None]
        kept = (*others, *self.states.values(), *self.written.values())
        return all(other.untyped_storage().data_ptr() != storage for other in kept)


_Step = Callable[[_Frame], None]


class Program:
    """A function of a package, ready to be run many times.

    Attributes:
        peaks: of the operations that compute floats, by name, if they are observed; where fp16 is estimated, of the
            scores inside an attention too, by its name and ``.scores``.

    Raises:
        UnsupportedOperation: operations, or parameters of theirs, are not known; all are named.
        PackageError: the program contradicts itself.
    """

    def __init__(self, package: Package, function: Function, precision: Precision, observe: bool = True) -> None:
        _reject_unknown(function)
        self.peaks: dict[str, Peak] = {}
        self._observes = observe
        self._function = function
        self._precision: Precision = precision
        self._constants = ConstantPool(package, function)
        self._slots = {name: slot for slot, name in enumerate(function.inputs)}
        self._dtypes = {name: spec.dtype for name, spec in function.inputs.items()}
        self._steps: list[tuple[Operation, _Step, list[int]]] = []
        last_use = _last_uses(function)
        moves_state = _reads_that_move(function)
        for index, op in enumerate(function.operations):
            self._dtypes |= {name: declared.dtype for name, declared in op.outputs.items()}
            if op.name in self._constants:
                continue
            used = [operand.name for operands in op.inputs.values() for operand in operands]
            for name in op.outputs:
                self._slots[name] = len(self._slots)
            dying = [self._slots[n] for n in {*used, *op.outputs} if n in self._slots and last_use[n] == index]
            self._steps.append((op, self._compile(op, index in moves_state, dying), dying))

    def run(
        self, inputs: Mapping[str, Tensor], states: Mapping[str, Tensor]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The outputs, and those states that were written; the states passed in are left as they are.

        Raises:
            InputError: a position is out of range.
            PackageError: a result is not what the program declares it to be.
        """
        frame = _Frame([None] * len(self._slots), states)
        for name, value in inputs.items():
            frame.values[self._slots[name]] = value
        for op, step, dying in self._steps:
            try:
                step(frame)
            except MilError as error:
                raise type(error)(f"{op.type} {op.name!r}: {error}") from error
            except (RuntimeError, IndexError, TypeError, ValueError) as error:
                raise PackageError(f"{op.type} {op.name!r} cannot be computed: {error}") from error
            for slot in dying:
                frame.values[slot] = None
        return {name: self._output(name, frame) for name in self._function.outputs}, frame.written

    def _output(self, name: str, frame: _Frame) -> Tensor:
        source = self._source(Operand(name=name))
        if isinstance(source, int):
            return frame.get(source)
        if isinstance(source, str):
            raise UnsupportedOperation(f"the output {name!r} is a string")
        return held(source, self._dtypes[name], self._precision)

    def _compile(self, op: Operation, moves_state: bool, dying: list[int]) -> _Step:
        if op.type == "read_state":
            return self._read_step(op, moves_state)
        if op.type == "write_state":
            return self._write_step(op)
        self._check_float_types(op)
        return self._compute_step(op, dying)

    def _compute_step(self, op: Operation, dying: list[int]) -> _Step:
        function = OPS[op.type]
        fixed, single, several = self._arguments(op)
        results = [(self._slots[name], declared) for name, declared in op.outputs.items()]
        computes_floats = self._observes and results[0][1].dtype in ("fp16", "fp32") and op.type not in MOVING
        peak = self.peaks.setdefault(op.name, Peak(op.type)) if computes_floats else None
        scores = None
        if op.type == "scaled_dot_product_attention" and self._precision == "fp16" and self._observes:
            scores = self.peaks.setdefault(f"{op.name}.scores", Peak("attention scores"))
        # A state is updated in place where nothing can tell: copying a long one in every layer is slow.
        target = single.get("x") if op.type == "slice_update" else None
        may_update = target in dying

        def step(frame: _Frame) -> None:
            arguments: dict[str, Value | list[Value]] = dict(fixed)
            for parameter, slot in single.items():
                arguments[parameter] = frame.get(slot)
            for parameter, sources in several.items():
                arguments[parameter] = [frame.get(each) if isinstance(each, int) else each for each in sources]
            if scores is not None:
                scores.observe(attention_scores(arguments["query"], arguments["key"]), True)  # type: ignore[arg-type]
            in_place = may_update and target is not None and self._may_overwrite(frame, target)
            result = assign_slice(**arguments) if in_place else function(**arguments)  # type: ignore[arg-type]
            tensors = result if isinstance(result, tuple) else (result,)
            for (slot, declared), tensor in zip(results, tensors, strict=True):
                frame.values[slot] = self._settle(tensor, declared, peak)

        return step

    def _may_overwrite(self, frame: _Frame, slot: int) -> bool:
        return frame.owns(slot) and not self._constants.holds(frame.get(slot))

    def _read_step(self, op: Operation, moves: bool) -> _Step:
        name = self._state_name(op)
        ((result, declared),) = op.outputs.items()
        slot = self._slots[result]

        def step(frame: _Frame) -> None:
            written = frame.written.pop(name, None) if moves else frame.written.get(name)
            value = frame.states[name] if written is None else written
            frame.values[slot] = self._settle(value, declared)

        return step

    def _write_step(self, op: Operation) -> _Step:
        name = self._state_name(op)
        spec = self._function.states[name]
        declared = TensorType(spec.dtype, spec.shape)
        source = self._source(op.inputs["data"][0])

        def step(frame: _Frame) -> None:
            value = frame.get(source) if isinstance(source, int) else source
            frame.written[name] = self._settle(value, declared)

        return step

    def _settle(self, value: Value, declared: TensorType, peak: Peak | None = None) -> Tensor:
        """Checks a result against its declaration, and rounds it to the type in which it is held."""
        if isinstance(value, str) or _kind(value.dtype) != _kind_of(declared.dtype):
            raise PackageError(f"it is declared {declared}, but is {getattr(value, 'dtype', 'a string')}")
        if not declared.accepts(value.shape):
            raise PackageError(f"it is declared {declared}, but has the shape {list(value.shape)}")
        kept = held(value, declared.dtype, self._precision)
        if peak is not None:
            peak.observe(value, kept.dtype == torch.float16)
        return kept

    def _arguments(self, op: Operation) -> tuple[dict[str, Value], dict[str, int], dict[str, list[Value | int]]]:
        """The operands by parameter: constants, slots, and tuples of either."""
        fixed: dict[str, Value] = {}
        single: dict[str, int] = {}
        several: dict[str, list[Value | int]] = {}
        for parameter, operands in op.inputs.items():
            sources = [self._source(operand) for operand in operands]
            if parameter == "values":
                several[parameter] = sources
            elif isinstance(sources[0], int):
                single[parameter] = sources[0]
            else:
                fixed[parameter] = sources[0]
        return fixed, single, several

    def _source(self, operand: Operand) -> Value | int:
        """A constant, or the slot where the operand will be found."""
        if operand.constant is not None or operand.name in self._constants:
            return self._constants.value(operand)
        if operand.name not in self._slots:
            raise PackageError(f"the program uses {operand.name!r}, which nothing defines before")
        return self._slots[operand.name]

    def _state_name(self, op: Operation) -> str:
        name = op.inputs["input"][0].name
        if name not in self._function.states:
            raise PackageError(f"{op.type} {op.name!r} is of {name!r}, which is not a state of the function")
        return name

    def _check_float_types(self, op: Operation) -> None:
        """A float result has the type of one of its float operands, or of what it is cast to."""
        if op.type == "cast":
            given = {str(self._source(op.inputs["dtype"][0]))}
        else:
            names = [operand.name for operands in op.inputs.values() for operand in operands]
            given = {self._dtypes[name] for name in names if name in self._dtypes}
        allowed = given & {"fp16", "fp32"}
        for name, declared in op.outputs.items():
            if allowed and _kind_of(declared.dtype) == "float" and declared.dtype not in allowed:
                raise PackageError(f"{op.type} {name!r} is declared {declared}, but computes {min(allowed)}")


def _kind(dtype: torch.dtype) -> str:
    return "float" if dtype.is_floating_point else "bool" if dtype == torch.bool else "integer"


def _kind_of(dtype: str) -> str:
    return "float" if dtype.startswith("fp") else "bool" if dtype == "bool" else "integer"


def _reject_unknown(function: Function) -> None:
    known = {*OPS, "const", "read_state", "write_state"}
    unknown = sorted({op.type for op in function.operations} - known)
    if unknown:
        raise UnsupportedOperation(f"function {function.name!r} uses operations not known: {', '.join(unknown)}")
    for op in function.operations:
        if op.type in OPS:
            try:
                inspect.signature(OPS[op.type]).bind(**op.inputs)
            except TypeError as error:
                raise UnsupportedOperation(f"{op.type} {op.name!r} in {function.name!r}: {error}") from error


def _last_uses(function: Function) -> dict[str, int]:
    """For each value, the last operation that uses it; one past the end for the function's outputs."""
    last: dict[str, int] = {}
    for index, op in enumerate(function.operations):
        last |= dict.fromkeys(op.outputs, index)
        last |= {each.name: index for operands in op.inputs.values() for each in operands if each.name}
    return last | dict.fromkeys(function.outputs, len(function.operations))


def _reads_that_move(function: Function) -> set[int]:
    """The reads of a state whose content will have been written anew before anyone asks for it again."""
    moving = set()
    last_read: dict[str, int] = {}
    for index, op in enumerate(function.operations):
        if op.type == "read_state":
            last_read[op.inputs["input"][0].name] = index
        elif op.type == "write_state":
            read = last_read.pop(op.inputs["input"][0].name, None)
            moving |= set() if read is None else {read}
    return moving
