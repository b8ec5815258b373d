"""The ``.pte`` file format: header, flatbuffer and segments, without the runtime.

The file is a flatbuffer (ExecuTorch's ``program.fbs``) with an extended header near its start, followed by data
segments: the constants of the program in one, every delegate's named data in one of its own.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Final

from edgeqkv.backends.executorch.flatbuffer import Table
from edgeqkv.errors import BundleError
from edgeqkv.model.dtypes import Dtype

__all__ = ["Header", "MemoryPlan", "PlannedTensor", "ProgramFile", "Segment"]

# Numbers of ``program.fbs``: of the tables' fields in the order in which it lists them, and of its enumerations.
_PLANS, _SEGMENTS, _CONSTANTS, _NAMED_DATA = 1, 4, 5, 7
_METHOD_NAME, _VALUES, _CHAINS, _OPERATORS, _DELEGATES, _BUFFER_SIZES = 0, 2, 5, 6, 7, 8
_INSTRUCTIONS: Final = 2
_CALL_TYPE, _CALL = 0, 1
_OF_DELEGATE: Final = 2
_PROCESSED: Final = 1
_LOCATION, _INDEX = 0, 1
_IN_SEGMENT: Final = 1
_SPECS: Final = 2
_VALUE_TYPE, _VALUE = 0, 1
_SCALAR_TYPE, _SIZES, _ALLOCATION, _EXTRA = 0, 2, 6, 9
_IS_TENSOR: Final = 5
_DTYPES: Final = {1: "int8", 5: "fp16", 6: "fp32"}


@dataclass(frozen=True)
class Header:
    """The extended header: sizes in bytes; segments' offsets count from ``segment_base``."""

    program_size: int
    segment_base: int
    segment_data_size: int

    _START = 8  # after the flatbuffer's root offset and its identifier
    _LAYOUT = struct.Struct("<4sIQQQ")
    SIZE = _START + _LAYOUT.size

    @classmethod
    def unpack(cls, data: bytes) -> Header | None:
        """The header of a file that begins with ``data``; None if it is no program."""
        if len(data) < cls.SIZE or data[4:6] != b"ET":
            return None
        magic, length, *sizes = cls._LAYOUT.unpack_from(data, cls._START)
        return cls(*sizes) if magic == b"eh00" and length >= cls._LAYOUT.size else None

    def pack_into(self, data: bytearray) -> None:
        """Overwrite the sizes in a file's first bytes."""
        magic, length, *_ = self._LAYOUT.unpack_from(data, self._START)
        sizes = (self.program_size, self.segment_base, self.segment_data_size)
        self._LAYOUT.pack_into(data, self._START, magic, length, *sizes)


@dataclass(frozen=True)
class PlannedTensor:
    """A named buffer at its place in the planned memory; ``arena`` is the memory's id."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    arena: int
    offset: int

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * Dtype(self.dtype).bytes


@dataclass(frozen=True)
class MemoryPlan:
    """What a method asks the runtime to allocate: bytes by arena, and the buffers that outlive a call."""

    arenas: dict[int, int]
    buffers: tuple[PlannedTensor, ...]


@dataclass(frozen=True)
class Segment:
    """A range of the file, in bytes from the header's ``segment_base``.

    ``place`` is where in the flatbuffer the offset is written; 0 if it is left out because it is 0.
    """

    index: int
    offset: int
    size: int
    place: int

    @property
    def stop(self) -> int:
        return self.offset + self.size


class ProgramFile:
    """A ``.pte`` on disk. Reads its flatbuffer alone, which is small; segments stay on disk.

    Raises:
        BundleError: the file is missing, no ExecuTorch program, or shorter than it says it is.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            size = path.stat().st_size
            with path.open("rb") as file:
                header = Header.unpack(file.read(Header.SIZE))
                if header is None:
                    raise BundleError(f"{path} is not an ExecuTorch program; export it again")
                expected = max(header.segment_base + header.segment_data_size, header.program_size, Header.SIZE)
                if size < expected:
                    raise BundleError(f"{path} is damaged: it has {size} of {expected} bytes; copy or export it again")
                file.seek(0)
                self.flatbuffer = bytearray(file.read(max(header.program_size, Header.SIZE)))
        except OSError as error:
            raise BundleError(f"{path} cannot be read ({error.strerror}); export it again") from error
        self.header = header
        self._root = Table.root(self.flatbuffer)

    def plans(self) -> dict[str, MemoryPlan]:
        """Method name → its memory plan. Methods that only return a constant plan nothing and are left out.

        Raises:
            BundleError: the flatbuffer is damaged.
        """
        try:
            plans = {name: _memory_plan(method) for name, method in self._methods().items()}
        except (struct.error, UnicodeDecodeError, KeyError) as error:
            raise BundleError(f"{self.path} is damaged: its memory plan cannot be read; export it again") from error
        return {name: plan for name, plan in plans.items() if plan.arenas}

    def method(self, name: str) -> Table:
        """A method's execution plan.

        Raises:
            KeyError: it has no such method.
            struct.error: the flatbuffer is damaged.
        """
        return self._methods()[name]

    def method_names(self) -> tuple[str, ...]:
        """All methods, those that only return a constant included."""
        return tuple(self._methods())

    def operators(self, method: str) -> frozenset[str]:
        """Names of the operators that a method calls outside of its delegates, such as ``aten::add.out``."""
        operators = self._methods()[method].tables(_OPERATORS)
        return frozenset(f"{operator.text(0)}.{operator.text(1)}" for operator in operators)

    def check_names(self) -> None:
        """Read every name that the runtime may write to its log: it ends the process over one that is no UTF-8.

        Raises:
            BundleError: one is not, or the flatbuffer is damaged.
        """
        try:
            for method in self._methods().values():
                for operator in method.tables(_OPERATORS):
                    operator.text(0), operator.text(1)
                for delegate in method.tables(_DELEGATES):
                    delegate.text(0)
                    for spec in delegate.tables(_SPECS):
                        spec.text(0)
            for data in self._root.tables(_NAMED_DATA):
                data.text(0)
        except (struct.error, UnicodeDecodeError) as error:
            raise BundleError(f"{self.path} is damaged: a name in it cannot be read; export it again") from error

    def segments(self) -> list[Segment]:
        """All data segments."""
        tables = enumerate(self._root.tables(_SEGMENTS))
        return [Segment(i, table.number(0, "Q"), table.number(1, "Q"), table.place(0)) for i, table in tables]

    def constants(self) -> tuple[int, list[int]]:
        """The segment of the program's own constants, and where in it each begins."""
        table = self._root.table(_CONSTANTS)
        return (table.number(0, "I"), table.numbers(1, "Q")) if table else (0, [])

    def delegate_data(self) -> set[int]:
        """The segments that delegates read by name."""
        return {table.number(1, "I") for table in self._root.tables(_NAMED_DATA)}

    def delegates(self, method: str) -> list[frozenset[int]]:
        """The segments that a method's delegates read by name, in the order in which the runtime prepares them."""
        named = {data.text(0).encode(): data.number(1, "I") for data in self._root.tables(_NAMED_DATA)}
        segments, end = self.segments(), self.path.stat().st_size
        found = []
        with self.path.open("rb") as file:
            for delegate in self._methods()[method].tables(_DELEGATES):
                reference = delegate.table(_PROCESSED)
                graph = b""
                if reference is not None and reference.number(_LOCATION, "b") == _IN_SEGMENT:
                    segment = segments[reference.number(_INDEX, "I")]
                    file.seek(min(self.header.segment_base + segment.offset, end))
                    graph = file.read(min(segment.size, end))
                # Keys are long enough hashes that they stand in a graph for nothing else.
                found.append(frozenset(index for key, index in named.items() if key in graph))
        return found

    def delegate_places(self, method: str) -> list[int]:
        """Where in the flatbuffer the entries of a method's list of delegates are written."""
        return self._methods()[method].places(_DELEGATES)

    def delegate_calls(self, method: str) -> list[int]:
        """Where in the flatbuffer a method's calls say their delegate's number; one of the first says none."""
        calls = (
            instruction.table(_CALL)
            for chain in self._methods()[method].tables(_CHAINS)
            for instruction in chain.tables(_INSTRUCTIONS)
            if instruction.number(_CALL_TYPE, "B") == _OF_DELEGATE
        )
        return [place for call in calls if call is not None and (place := call.place(0))]

    def _methods(self) -> dict[str, Table]:
        return {method.text(_METHOD_NAME): method for method in self._root.tables(_PLANS)}


def _memory_plan(method: Table) -> MemoryPlan:
    buffers = (_planned(value) for value in method.tables(_VALUES))
    return MemoryPlan(
        arenas={arena: size for arena, size in enumerate(method.numbers(_BUFFER_SIZES, "q")) if size},
        buffers=tuple(buffer for buffer in buffers if buffer is not None),
    )


def _planned(value: Table) -> PlannedTensor | None:
    """A value as a named buffer of the memory plan; None if it is anything else."""
    tensor = value.table(_VALUE)
    if tensor is None or value.number(_VALUE_TYPE, "B") != _IS_TENSOR:
        return None
    place, extra = tensor.table(_ALLOCATION), tensor.table(_EXTRA)
    if place is None or extra is None or not extra.text(1):
        return None
    return PlannedTensor(
        name=extra.text(1),
        dtype=_DTYPES[tensor.number(_SCALAR_TYPE, "b")],
        shape=tuple(tensor.numbers(_SIZES, "i")),
        arena=place.number(0, "I"),
        offset=place.number(2, "I") << 32 | place.number(1, "I"),
    )
