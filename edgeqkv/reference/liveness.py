"""How much memory values take at once: liveness.

A value lives from the operation that makes it to the last one that reads it. The peak is the largest sum of the
values that live at the same time, with an operation's inputs and outputs alive together, as a runtime that gives
every value memory of its own and frees it after its last use needs it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

__all__ = ["Peak", "Step", "peak"]


@dataclass(frozen=True)
class Step:
    """One operation: the values it reads, and the bytes of each value it makes.

    ``alias`` is the value whose memory the output is (a reshape), if any; ``multiply_adds`` those of a matrix product.
    """

    name: str
    inputs: tuple[str, ...]
    outputs: Mapping[str, int]
    alias: str | None = None
    multiply_adds: int = 0


@dataclass(frozen=True)
class Peak:
    """The largest sum of live values, in bytes, and the operation at which it is reached."""

    bytes: int
    at: str


def peak(steps: Sequence[Step], outside: frozenset[str] = frozenset()) -> Peak:
    """The peak of a sequence of operations; values named in ``outside`` live in memory that is counted elsewhere."""
    owner: dict[str, str] = {}
    size: dict[str, int] = {}
    last_use: dict[str, int] = {}
    for index, step in enumerate(steps):
        for name, count in step.outputs.items():
            owner[name] = owner.get(step.alias, step.alias) if step.alias is not None else name
            if owner[name] == name:
                size[name] = 0 if name in outside else count
        for name in (*step.inputs, *step.outputs):
            last_use[owner.get(name, name)] = index
    ends: dict[int, list[str]] = {}
    for name, index in last_use.items():
        ends.setdefault(index, []).append(name)
    live, highest = 0, Peak(0, "")
    for index, step in enumerate(steps):
        live += sum(size[name] for name in step.outputs if owner[name] == name)
        if live > highest.bytes:
            highest = Peak(live, step.name)
        live -= sum(size.get(name, 0) for name in ends.get(index, ()))
    return highest
