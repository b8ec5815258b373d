"""What a model's file says of itself, whoever wrote it: read, and not run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["FileFacts", "FunctionFacts"]


@dataclass(frozen=True)
class FunctionFacts:
    """One thing that can be called: a graph, a method or a function.

    Attributes:
        name: as the file has it; empty where it has one alone.
        inputs, outputs, states: name → type and shape, in words.
        operators: how many there are of each type, as viewers show them.
    """

    name: str
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    states: Mapping[str, str]
    operators: Mapping[str, int]


@dataclass(frozen=True)
class FileFacts:
    """A model's file.

    Attributes:
        path: the file, or the folder that is a package.
        title: what kind of file it is, for people.
        bytes: of it, with the files of weights that it refers to.
        made_by: what wrote it, if it says so.
        needs: what it asks of what runs it: versions, operator sets, backends.
        functions: what can be called.
        weights: bytes of constants by type.
        memory: bytes that a runtime plans for it, where the file says so.
        properties: what else was written into it.
        notes: what a reader should know.
    """

    path: Path
    title: str
    bytes: int
    functions: tuple[FunctionFacts, ...]
    made_by: str = ""
    needs: tuple[str, ...] = ()
    weights: Mapping[str, int] = field(default_factory=dict)
    memory: int | None = None
    properties: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As JSON values; sizes are in bytes."""
        return {
            "file": str(self.path),
            "kind": self.title,
            "bytes": self.bytes,
            "made_by": self.made_by,
            "needs": list(self.needs),
            "functions": [
                {
                    "name": each.name,
                    "inputs": dict(each.inputs),
                    "outputs": dict(each.outputs),
                    "states": dict(each.states),
                    "operators": dict(each.operators),
                }
                for each in self.functions
            ],
            "weight_bytes": dict(self.weights),
            "planned_memory_bytes": self.memory,
            "properties": dict(self.properties),
            "notes": list(self.notes),
        }
