"""Just enough of the FlatBuffers wire format to read a table, and to know where its numbers lie.

https://flatbuffers.dev/internals: a table begins with the distance back to its vtable, which holds its own and
the table's size and then, for every field in the schema's order, the distance from the table to the field (0 if
it is left out). Strings, vectors and tables are reached through a distance from where it is written.
"""

from __future__ import annotations

import struct

__all__ = ["Table"]


class Table:
    """A table in ``data``. Fields go by their number in the schema; a union counts as two.

    Damaged data raises `struct.error`.
    """

    def __init__(self, data: bytearray, position: int) -> None:
        self._data = data
        self._position = position

    @classmethod
    def root(cls, data: bytearray) -> Table:
        """The table that the buffer is about."""
        return cls(data, struct.unpack_from("<I", data)[0])

    def place(self, field: int) -> int:
        """Where a field's value, or the distance to it, is written; 0 if it is left out."""
        vtable = self._position - self._number("<i", self._position)
        entry = 4 + 2 * field
        if entry >= self._number("<H", vtable):
            return 0
        distance = self._number("<H", vtable + entry)
        return self._position + distance if distance else 0

    def number(self, field: int, format_: str) -> int:
        """An integer; 0 if it is left out."""
        place = self.place(field)
        return self._number(f"<{format_}", place) if place else 0

    def table(self, field: int) -> Table | None:
        """A table, or None."""
        place = self.place(field)
        return Table(self._data, self._follow(place)) if place else None

    def text(self, field: int) -> str:
        """A string; empty if it is left out."""
        start, length = self._vector(field)
        return self._data[start : start + length].decode()

    def numbers(self, field: int, format_: str) -> list[int]:
        """A vector of integers; empty if it is left out."""
        start, length = self._vector(field)
        return list(struct.unpack_from(f"<{length}{format_}", self._data, start))

    def tables(self, field: int) -> list[Table]:
        """A vector of tables; empty if it is left out."""
        return [Table(self._data, self._follow(place)) for place in self.places(field)]

    def places(self, field: int) -> list[int]:
        """Where the distances to a vector's tables are written; empty if it is left out."""
        start, length = self._vector(field, size=4)
        return [start + 4 * index for index in range(length)]

    def _vector(self, field: int, size: int = 1) -> tuple[int, int]:
        """Where a vector begins, and how many items of at least so many bytes it has."""
        place = self.place(field)
        if not place:
            return 0, 0
        start, length = self._follow(place) + 4, self._number("<I", self._follow(place))
        if length * size > len(self._data) - start:
            raise struct.error(f"a vector of {length} items leads out of {len(self._data)} bytes")
        return start, length

    def _follow(self, place: int) -> int:
        return place + self._number("<I", place)

    def _number(self, format_: str, place: int) -> int:
        value: int = struct.unpack_from(format_, self._data, place)[0]
        return value
