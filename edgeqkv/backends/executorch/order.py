"""The order in which the runtime prepares a program's delegates.

It goes through a method's list of them as it loads. For each it maps the data, which XNNPACK packs into memory of its
own, and lets go of it. The head is the last, and its matrix by far the largest: as the exporter writes the list, a
process holds most when everything is packed and that matrix is mapped besides. The order is nobody's business but the
list's, because what is run names delegates by their place in it. So the one with most data is made the second, which is
packed while the rest is not there yet. (A call without a number is of the first, so that one has to stay.)
"""

from __future__ import annotations

import os
import struct
from pathlib import Path

from edgeqkv.backends.executorch.program import ProgramFile

__all__ = ["largest_early"]

_EARLY = 1


def largest_early(path: Path) -> None:
    """Rewrite the file in place so that the delegate with most data is among the first to be prepared."""
    program = ProgramFile(path)
    sizes = {segment.index: segment.size for segment in program.segments()}
    changed = False
    for name in program.plans():
        data = program.delegates(name)
        largest = max(range(len(data)), key=lambda index: sum(sizes[each] for each in data[index]), default=0)
        if largest > _EARLY:
            _swap(program, name, _EARLY, largest)
            changed = True
    if not changed:
        return
    with path.open("r+b") as file:
        file.write(program.flatbuffer)
        file.flush()
        os.fsync(file.fileno())


def _swap(program: ProgramFile, method: str, one: int, other: int) -> None:
    """Swap two entries of a method's list of delegates, and the numbers of the calls."""
    entries = program.delegate_places(method)
    # A distance counts from where it is written, to what lies behind the whole list.
    first, second = (entries[i] + struct.unpack_from("<I", program.flatbuffer, entries[i])[0] for i in (one, other))
    struct.pack_into("<I", program.flatbuffer, entries[one], second - entries[one])
    struct.pack_into("<I", program.flatbuffer, entries[other], first - entries[other])
    for place in program.delegate_calls(method):
        (index,) = struct.unpack_from("<i", program.flatbuffer, place)
        if index in (one, other):
            struct.pack_into("<i", program.flatbuffer, place, one + other - index)
