"""Storing a tied table once in a ``.pte``.

The exporter writes a tensor that both the program gathers from (the embedding) and a delegate multiplies by (the
head) twice: as a constant of the program and as the delegate's named data. A segment is no more than an offset
and a size, so both can be one range of bytes: the delegate's segment is made to lie inside the constants, and
its own copy is cut out of the file. Every reader finds the same bytes as before.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO, Final

from edgeqkv.backends.executorch.program import ProgramFile, Segment

__all__ = ["store_once"]

_WORTH_IT: Final = 4096  # bytes; smaller equal ranges stay
_BLOCK: Final = 1 << 20


def store_once(path: Path) -> int:
    """Rewrite the file in place so that no delegate's data repeats a constant; the bytes that it lost."""
    program = ProgramFile(path)
    segments = program.segments()
    with path.open("r+b") as file:
        copies = dict(_copies(file, program, segments))
        if not copies:
            return 0
        return _cut(file, program, segments, copies)


def _copies(file: BinaryIO, program: ProgramFile, segments: list[Segment]) -> Iterator[tuple[int, int]]:
    """Every delegate's segment whose bytes are a constant's: its index, and where those lie."""
    base = program.header.segment_base
    index, starts = program.constants()
    for segment in (segments[named] for named in sorted(program.delegate_data() - {index})):
        constants = segments[index]
        # Only what lies behind the constants, so that they stay where they are. What lies within is shared already.
        if segment.offset < constants.stop or segment.size < _WORTH_IT:
            continue
        for start in (constants.offset + start for start in starts):
            fits = start + segment.size <= constants.stop
            if fits and _equal(file, base + start, base + segment.offset, segment.size):
                yield segment.index, start
                break


def _cut(file: BinaryIO, program: ProgramFile, segments: list[Segment], copies: dict[int, int]) -> int:
    """Close the gaps that the copies leave, then say in the flatbuffer where everything lies now."""
    base, end = program.header.segment_base, program.header.segment_data_size
    offsets = dict(copies)
    order = sorted(segments, key=lambda segment: segment.offset)
    starts_after = [segment.offset for segment in order[1:]] + [end]
    removed = 0
    for segment, after in zip(order, starts_after, strict=True):
        # Up to where the next one starts, so that what follows moves by a multiple of the alignment.
        if segment.index in copies:
            removed += after - segment.offset
        elif removed:
            offsets[segment.index] = segment.offset - removed
            _move(file, base + segment.offset, base + segment.offset - removed, after - segment.offset)
    for index, offset in offsets.items():
        struct.pack_into("<Q", program.flatbuffer, segments[index].place, offset)
    replace(program.header, segment_data_size=end - removed).pack_into(program.flatbuffer)
    file.seek(0)
    file.write(program.flatbuffer)
    file.truncate(base + end - removed)
    file.flush()
    os.fsync(file.fileno())
    return removed


def _equal(file: BinaryIO, first: int, second: int, size: int) -> bool:
    """Whether two ranges of the file hold the same bytes; most differ in the first block."""
    for done in range(0, size, _BLOCK):
        length = min(_BLOCK, size - done)
        if _read(file, first + done, length) != _read(file, second + done, length):
            return False
    return True


def _move(file: BinaryIO, source: int, target: int, size: int) -> None:
    """Copy a range of the file towards its start."""
    for done in range(0, size, _BLOCK):
        block = _read(file, source + done, min(_BLOCK, size - done))
        file.seek(target + done)
        file.write(block)


def _read(file: BinaryIO, offset: int, length: int) -> bytes:
    file.seek(offset)
    return file.read(length)
