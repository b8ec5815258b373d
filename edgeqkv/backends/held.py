"""What a file says of a graph in it, compared with what a manifest says of the same, before anything runs.

A manifest is text that anybody can write. A runtime that is called by one which is not its file's reads and writes
beside the tensors that it has.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path

from edgeqkv.bundle.manifest import Artifact, Graph, StateTensor, StateUpdate, TensorSpec
from edgeqkv.errors import BundleError

__all__ = ["HeldGraph", "HeldTensor", "check_held", "exactly"]


@dataclass(frozen=True)
class HeldTensor:
    """A tensor at an end of a graph: its type, and the least and greatest size of each dimension (None: any)."""

    dtype: str
    sizes: tuple[tuple[int, int | None], ...]

    def takes(self, dtype: str, shape: Iterable[int]) -> bool:
        """Whether a tensor of this type and shape is one."""
        given = tuple(shape)
        return (
            dtype == self.dtype
            and len(given) == len(self.sizes)
            and all(
                low <= size and size <= (size if high is None else high)
                for size, (low, high) in zip(given, self.sizes, strict=True)
            )
        )

    def __str__(self) -> str:
        sizes = (str(low) if low == high else f"{low}..{'' if high is None else high}" for low, high in self.sizes)
        return f"{self.dtype}[{', '.join(sizes)}]"


def exactly(dtype: str, shape: Iterable[int]) -> HeldTensor:
    """A tensor of one shape."""
    return HeldTensor(dtype, tuple((size, size) for size in shape))


@dataclass(frozen=True)
class HeldGraph:
    """One graph, as the file that the runtime loads has it.

    Attributes:
        inputs, outputs: by name.
        states: what the runtime keeps between calls, by name.
        rows: rows of the table that token ids choose from; None if it looks none up, or the runtime itself refuses
            others.
    """

    inputs: Mapping[str, HeldTensor]
    outputs: Mapping[str, HeldTensor]
    states: Mapping[str, HeldTensor] = field(default_factory=dict)
    rows: int | None = None


def check_held(path: Path, graph: Graph, artifact: Artifact, held: HeldGraph, update: StateUpdate) -> None:
    """Compare a graph of an artifact with what its file holds; ``update`` is how the target's state is written.

    Raises:
        BundleError: they differ; it names the value.
    """
    _Check(path, graph, artifact, held).run(update)


@dataclass(frozen=True)
class _Check:
    path: Path
    graph: Graph
    artifact: Artifact
    held: HeldGraph

    def run(self, update: StateUpdate) -> None:
        for what, specs, there in (
            ("input", self.graph.inputs, self.held.inputs),
            ("output", self.graph.outputs, self.held.outputs),
        ):
            names = [spec.name for spec in specs]
            if sorted(names) != sorted(there):
                self._differs(f"the {what}s {_listed(names)}", _listed(there))
            for spec in specs:
                self._compare(what, spec.name, spec.dtype, self._shape(spec), there)
        for tensor in self.artifact.state_tensors:
            self._check_state(tensor, update)
        self._check_tokens()
        if self.artifact.causal:
            self._check_context()

    def _compare(
        self, what: str, name: str | None, dtype: str, shape: tuple[int, ...], there: Mapping[str, HeldTensor]
    ) -> None:
        found = there.get(str(name))
        if found is None or not found.takes(dtype, shape):
            self._differs(f"the {what} '{name}' {dtype}{list(shape)}", str(found or _listed(there)))

    def _shape(self, spec: TensorSpec) -> tuple[int, ...]:
        """The largest shape with which it is called."""
        context = self.artifact.context or 1
        most = {"tokens": self.graph.tokens, "end": context, "end + 1": context + 1, "context": context}
        unknown = [size for size in spec.shape if isinstance(size, str) and size not in most]
        if unknown:
            self._differs(f"a dimension '{unknown[0]}' of '{spec.name}'", f"none of these: {_listed(most)}")
        return tuple(most[size] if isinstance(size, str) else size for size in spec.shape)

    def _check_state(self, tensor: StateTensor, update: StateUpdate) -> None:
        if tensor.update != update:
            self._differs(f"the update '{tensor.update}' of the state '{tensor.name}'", f"'{update}'")
        if update == "runtime":
            self._compare("state", tensor.name, tensor.dtype, tensor.shape, self.held.states)
            return
        self._compare("state input", tensor.input, tensor.dtype, tensor.shape, self.held.inputs)
        shape = tensor.shape
        if update == "rows" and "context" in self.artifact.axes:
            axis = self.artifact.axes.index("context")
            shape = (*shape[:axis], self.graph.tokens, *shape[axis + 1 :])
        for name in (tensor.output, *tensor.aliases):
            self._compare("state output", name, tensor.dtype, shape, self.held.outputs)

    def _check_tokens(self) -> None:
        """As many token ids as the graph takes at once, none of which is beyond the table that it looks them up in."""
        entries, rows, tokens = self.artifact.vocab_size, self.held.rows, self.graph.input("tokens")
        if entries is not None and rows is not None and entries > rows:
            self._differs(f"a vocabulary of {entries} tokens", f"a table of {rows}")
        if self.artifact.causal and tokens is not None and prod(self._shape(tokens)) != self.graph.tokens:
            self._differs(f"calls of {self.graph.tokens} tokens", f"an input '{tokens.name}' {list(tokens.shape)}")

    def _check_context(self) -> None:
        """Logits for the vocabulary, and a state with room for the context, unless it is a ring."""
        if (entries := self._shape(self.graph.logits)[-1]) != self.artifact.vocab_size:
            self._differs(f"a vocabulary of {self.artifact.vocab_size} tokens", f"logits of {entries}")
        if "context" not in self.artifact.axes:
            return
        axis = self.artifact.axes.index("context")
        whole = [tensor.shape for tensor in self.artifact.state_tensors if not tensor.ring]
        rooms = [shape[axis] if axis < len(shape) else 0 for shape in whole]
        if rooms and max(rooms) != self.artifact.context:
            self._differs(f"a context of {self.artifact.context} tokens", f"a state with room for {max(rooms)}")

    def _differs(self, said: str, found: str) -> None:
        raise BundleError(
            f"the manifest says of '{self.graph.name}' that it has {said}, and {self.path.name} has {found}. "
            f"Export it again"
        )


def _listed(names: Iterable[str]) -> str:
    return ", ".join(map(repr, names)) or "none"
