"""Runs a saved Core ML package, operation by operation, in torch: on any machine, without Core ML.

It evaluates what is on disk (the program, the weights, the states), so it can prove that a package
computes what a model does. It does not predict how fast a device is, nor its last bits: Core ML fuses
operations and chooses its own order of summation.

    prefill = Evaluator("model.mlpackage", "prefill")
    decode = prefill.for_function("decode")
    state = prefill.new_state()
    prefill.run({"tokens": prompt, "position": start}, state)
    logits = decode.run({"tokens": token, "position": length}, state)["logits"]
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from edgeqkv.mil.errors import InputError
from edgeqkv.mil.memory import give_back
from edgeqkv.mil.package import FeatureSpec, Package
from edgeqkv.mil.program import Peak, Precision, Program, held
from edgeqkv.mil.weight_file import Array

__all__ = ["Evaluator", "Peak", "Precision", "State"]

_KINDS = {"i": "integer", "u": "integer", "f": "float", "b": "bool"}


class State:
    """The states of a package between runs, zero at first. Functions of one package can share it.

    Its methods are named as those of the state that coremltools makes for a model.
    """

    def __init__(self, specs: Mapping[str, FeatureSpec], precision: Precision) -> None:
        self.specs = MappingProxyType(dict(specs))
        self.precision: Precision = precision
        self._tensors = {name: held(torch.zeros(spec.shape), spec.dtype, precision) for name, spec in specs.items()}

    def read_state(self, name: str) -> Array:
        """A copy of the state of this name, in the type in which it is held."""
        return _copied(self._tensors[self._checked(name)])

    def write_state(self, name: str, value: npt.ArrayLike) -> None:
        """Replaces the state of this name.

        Raises:
            InputError: there is none, or the value's type or shape is not the declared one.
        """
        self._tensors[name] = _tensor(self.specs[self._checked(name)], value, self.precision)

    def reset(self) -> None:
        """Sets all states to zero."""
        self._tensors = {name: torch.zeros_like(tensor) for name, tensor in self._tensors.items()}

    def copy(self) -> State:
        """An independent state with the same content."""
        other = State({}, self.precision)
        other.specs = self.specs
        other._tensors = {name: tensor.clone() for name, tensor in self._tensors.items()}
        return other

    def _checked(self, name: str) -> str:
        if name not in self.specs:
            raise InputError(f"there is no state {name!r}; there are {_listed(self.specs)}")
        return name


class Evaluator:
    """One function of a saved ML Program, ready to be run.

    Args:
        package: the ``.mlpackage`` directory, or one already read (evaluators then share its constants).
        function: the function to run; the package's default one if not given.
        precision: "fp32" computes everything in fp32, with the stored constants taken exactly and fp16
            inputs, states and results not rounded: differences from a model are then errors in the graph,
            the weights or the states. "fp16" computes each operation in fp32 from fp16 operands and
            rounds its result to fp16, which estimates the numerical noise of a device.
        observe: whether ``peaks`` are looked for, which takes a sixth of the time.

    Attributes:
        functions: the names of the package's functions.
        inputs, outputs, states: what the function takes, gives and keeps, by name.

    Raises:
        PackageError: the package is missing, incomplete or damaged, or its program contradicts itself.
        InputError: there is no such function, or no such precision.
        UnsupportedOperation: the program uses operations that the evaluator does not know (all are named).
    """

    def __init__(
        self,
        package: str | Path | Package,
        function: str | None = None,
        precision: Precision = "fp32",
        observe: bool = True,
    ) -> None:
        if precision not in get_args(Precision):
            raise InputError(f"the precision is {' or '.join(get_args(Precision))}, not {precision!r}")
        self.package = package if isinstance(package, Package) else Package(package)
        self.precision: Precision = precision
        description = self.package.function(function)
        self.function = description.name
        self.functions = tuple(self.package.functions)
        self.inputs = MappingProxyType(description.inputs)
        self.outputs = MappingProxyType(description.outputs)
        self.states = MappingProxyType(description.states)
        self._observe = observe
        self._program = Program(self.package, description, precision, observe)
        give_back()  # what decompressing the constants took on the way

    @property
    def peaks(self) -> Mapping[str, Peak]:
        """The largest magnitude of each operation that computes floats, by its name, over all runs.

        Operations that only move values are left out. What a fused operation computes inside is not seen, but for
        the scores of an attention where the precision is fp16 (``NAME.scores``).
        """
        return MappingProxyType(self._program.peaks)

    def for_function(self, name: str) -> Evaluator:
        """An evaluator of another function of the same package, sharing its constants."""
        return Evaluator(self.package, name, self.precision, self._observe)

    def new_state(self) -> State:
        """States for this function, all zero."""
        return State(self.states, self.precision)

    def run(self, inputs: Mapping[str, npt.ArrayLike], state: State | None = None) -> dict[str, Array]:
        """The function's outputs; the states that it writes are replaced in ``state``.

        An image is given as its pixels, uint8 ``[1, channels, height, width]``, its colors in the order RGB; the
        program gets them in the order that it declares, as Core ML would hand them over.

        If it fails, ``state`` is as it was before. Floats come back in fp32, or in their declared type
        where the precision is fp16.

        Raises:
            InputError: an input or state is missing, unknown, or of another type or shape than declared;
                or an input makes the program reach for a position that is out of range.
            PackageError: a result is not what the program declares.
        """
        if inputs.keys() != self.inputs.keys():
            raise InputError(
                f"function {self.function!r} takes the inputs {_listed(self.inputs)}, not {_listed(inputs)}"
            )
        tensors = {name: _tensor(spec, inputs[name], self.precision) for name, spec in self.inputs.items()}
        kept = self._states_of(state)
        with torch.no_grad():
            outputs, written = self._program.run(tensors, kept)
        kept.update(written)
        return {name: _copied(tensor) for name, tensor in outputs.items()}

    def _states_of(self, state: State | None) -> dict[str, Tensor]:
        if not self.states:
            return {}
        if state is None:
            raise InputError(f"function {self.function!r} keeps states: pass one made by new_state()")
        if state.precision != self.precision:
            raise InputError(f"the state is for precision {state.precision}, not {self.precision}")
        for name, spec in self.states.items():
            if state.specs.get(name) != spec:
                raise InputError(
                    f"function {self.function!r} keeps the state {name!r}, {spec}; "
                    f"the one passed has {state.specs.get(name, 'none of this name')}"
                )
        return state._tensors


def _tensor(spec: FeatureSpec, value: npt.ArrayLike, precision: Precision) -> Tensor:
    """A copy of what a caller passed, as it is held, if it is what was declared."""
    array = np.asarray(value)
    if spec.image:
        if array.dtype != np.uint8 or array.shape != spec.shape:
            raise InputError(
                f"{spec.name!r} is {spec}, to be given as pixels of uint8, not {array.dtype}{list(array.shape)}"
            )
        ordered = array[:, ::-1] if spec.image == "BGR" else array
        return held(torch.from_numpy(ordered.copy()), spec.dtype, precision)
    declared = "float" if spec.dtype.startswith("fp") else "bool" if spec.dtype == "bool" else "integer"
    if _KINDS.get(array.dtype.kind) != declared:
        raise InputError(f"{spec.name!r} is {spec}, not an array of {array.dtype}")
    if not spec.accepts(array.shape):
        raise InputError(f"{spec.name!r} is {spec}, not of the shape {list(array.shape)}")
    if declared == "integer" and array.size and not -(2**31) <= array.min() <= array.max() < 2**31:
        raise InputError(f"{spec.name!r} has values that do not fit into int32")
    return held(torch.from_numpy(array.copy()), spec.dtype, precision)


def _copied(tensor: Tensor) -> Array:
    return tensor.numpy().copy()


def _listed(names: Mapping[str, object]) -> str:
    return ", ".join(map(repr, names)) or "none"
