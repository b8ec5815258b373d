"""The ``.pte`` as a file: reading it without the runtime, and storing what is in it twice once."""

from __future__ import annotations

import struct
from pathlib import Path

import flatbuffers
import pytest

from edgeqkv import BundleError
from edgeqkv.backends.executorch.flatbuffer import Table
from edgeqkv.backends.executorch.program import Header, ProgramFile
from edgeqkv.backends.executorch.tied import store_once

ALIGNMENT = 128
TABLE = bytes(range(256)) * 32  # 8 KiB, what is stored twice


def write_program(path: Path, constants: list[bytes], delegates: list[bytes]) -> None:
    """A file with these constants in its first segment, and each delegate's data in one of its own."""
    starts, joined = [], b""
    for constant in constants:
        starts.append(len(joined))
        joined = _padded(joined + constant, 16)
    segments, data = [], b""
    for content in (joined, *delegates):
        segments.append((len(data), len(content)))
        data = _padded(data + content, ALIGNMENT)
    data = data[: sum(segments[-1])]
    program = _flatbuffer(segments, starts)
    base = -(-len(program) // ALIGNMENT) * ALIGNMENT
    Header(len(program), base, len(data)).pack_into(program)
    path.write_bytes(bytes(program).ljust(base, b"\0") + data)


def _padded(data: bytes, alignment: int) -> bytes:
    return data.ljust(-(-len(data) // alignment) * alignment, b"\0")


def _flatbuffer(segments: list[tuple[int, int]], starts: list[int]) -> bytearray:
    builder = flatbuffers.Builder()
    data_segments = []
    for offset, size in segments:
        builder.StartObject(2)
        builder.PrependUint64Slot(0, offset, 0)
        builder.PrependUint64Slot(1, size, 0)
        data_segments.append(builder.EndObject())
    named = []
    for index in range(1, len(segments)):
        key = builder.CreateString(f"delegate {index}")
        builder.StartObject(2)
        builder.PrependUOffsetTRelativeSlot(0, key, 0)
        builder.PrependUint32Slot(1, index, 0)
        named.append(builder.EndObject())
    builder.StartVector(8, len(starts), 8)
    for start in reversed(starts):
        builder.PrependUint64(start)
    offsets = builder.EndVector()
    builder.StartObject(2)
    builder.PrependUOffsetTRelativeSlot(1, offsets, 0)
    constant_segment = builder.EndObject()
    vectors = [_vector(builder, tables) for tables in (data_segments, named)]
    builder.StartObject(8)
    builder.PrependUOffsetTRelativeSlot(4, vectors[0], 0)
    builder.PrependUOffsetTRelativeSlot(5, constant_segment, 0)
    builder.PrependUOffsetTRelativeSlot(7, vectors[1], 0)
    builder.Finish(builder.EndObject())
    plain = builder.Output()
    # As ExecuTorch does it: its header is put between the root offset and what that points to.
    root = struct.unpack_from("<I", plain)[0]
    head = struct.pack("<I4s", root + 36, b"ET12") + struct.pack("<4sIQQQ", b"eh00", 32, 0, 0, 0)
    return bytearray(head + plain[4:])


def _vector(builder: flatbuffers.Builder, tables: list[int]) -> int:
    builder.StartVector(4, len(tables), 4)
    for table in reversed(tables):
        builder.PrependUOffsetTRelative(table)
    return builder.EndVector()


def contents(path: Path) -> list[bytes]:
    """What a reader finds in every segment."""
    program, data = ProgramFile(path), path.read_bytes()
    starts = ((program.header.segment_base + segment.offset, segment.size) for segment in program.segments())
    return [data[start : start + size] for start, size in starts]


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_copy_is_cut_out_wherever_it_lies(tmp_path: Path, place: int) -> None:
    path = tmp_path / "model.pte"
    delegates = [b"first" * 3000, b"second" * 2500]
    delegates.insert(place, TABLE)
    write_program(path, [b"norm" * 20, TABLE, b"bias" * 9], delegates)
    before, size = contents(path), path.stat().st_size
    removed = store_once(path)
    assert contents(path) == before
    assert removed == len(TABLE)
    assert path.stat().st_size == size - removed
    program = ProgramFile(path)  # the header tells the new length
    assert program.header.segment_base + program.header.segment_data_size == path.stat().st_size
    others = [segment for segment in program.segments() if segment.index != place + 1]
    assert all(segment.offset % ALIGNMENT == 0 for segment in others)
    assert store_once(path) == 0  # nothing is left to share


def test_several_copies_are_cut_out_at_once(tmp_path: Path) -> None:
    path = tmp_path / "model.pte"
    other = TABLE[::-1]
    write_program(path, [TABLE, other], [other, b"own" * 2000, TABLE, b"more" * 2000])
    before = contents(path)
    assert store_once(path) == len(TABLE) + len(other)
    assert contents(path) == before


@pytest.mark.parametrize(
    "delegate",
    [
        TABLE[:-1] + b"?",  # of the same length, other in its last byte
        TABLE + b"more",  # longer than what is left of the constants
        TABLE[:100],  # too small to be worth it
    ],
)
def test_what_is_no_copy_stays(tmp_path: Path, delegate: bytes) -> None:
    path = tmp_path / "model.pte"
    write_program(path, [b"norm" * 20, TABLE], [delegate])
    before = path.read_bytes()
    assert store_once(path) == 0
    assert path.read_bytes() == before


def test_fields_that_are_left_out_are_zero(tmp_path: Path) -> None:
    table = Table.root(_flatbuffer([(0, 5)], [0]))
    segment = table.tables(4)[0]
    assert (segment.number(0, "Q"), segment.place(0), segment.number(1, "Q")) == (0, 0, 5)
    assert table.table(2) is None
    assert table.text(3) == ""
    assert table.tables(6) == table.numbers(9, "i") == []


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04" * 30, b"\x24\0\0\0ET12" + b"no header" * 9])
def test_another_file_is_no_program(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.pte").write_bytes(content)
    with pytest.raises(BundleError, match="not an ExecuTorch program"):
        ProgramFile(tmp_path / "model.pte")


def test_a_damaged_flatbuffer_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "model.pte"
    write_program(path, [TABLE], [b"own" * 2000])
    data = bytearray(path.read_bytes())
    struct.pack_into("<I", data, 0, 1 << 30)  # the root, far outside
    path.write_bytes(data)
    with pytest.raises(BundleError, match="damaged"):
        ProgramFile(path).plans()
