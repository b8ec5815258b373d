"""Running an export, whatever runs it: a decoder is fed tokens and keeps a state, an encoder runs whole inputs.

A session chooses graphs and fills their inputs by what the manifest says of them (`edgeqkv.bundle.manifest`); a
target's `Runner` only calls. The sample apps do the same in Kotlin, Swift, TypeScript and C++.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeqkv.backends import backend
from edgeqkv.backends.target import Runner, Target
from edgeqkv.bundle.bundle import Bundle
from edgeqkv.bundle.manifest import Artifact, Graph, StateTensor, TensorSpec
from edgeqkv.errors import BundleError, ContextFull, InputError, UnsupportedError
from edgeqkv.model.pixels import denormalized

__all__ = ["EncoderSession", "Session", "choose_engine", "open_artifact", "open_bundle"]

Array = npt.NDArray[Any]

_WORTH = 16
"""Tokens of a filled-up graph for each that is wanted: reading the weights once is most of what any call takes."""


def open_bundle(bundle: Bundle, target: str | None = None, engine: str | None = None) -> Session | EncoderSession:
    """A session on one of a bundle's targets; the only one if none is named.

    Raises:
        UnsupportedError: there is no such target or engine.
        MissingExtra: its runtime is not installed.
    """
    return open_artifact(bundle.path, bundle.target(target).artifact, engine)


def open_artifact(directory: Path, artifact: Artifact, engine: str | None = None) -> Session | EncoderSession:
    """A session on an artifact whose files lie in ``directory``.

    Raises:
        UnsupportedError: there is no such engine.
        MissingExtra: its runtime is not installed.
    """
    target = backend(artifact.target)
    runner = target.open(directory, artifact, choose_engine(target, engine))
    return Session(artifact, runner) if artifact.causal else EncoderSession(artifact, runner)


def choose_engine(target: Target, asked: str | None) -> str:
    """The engine that was asked for, or the target's default.

    Raises:
        UnsupportedError: the target has no such engine.
    """
    engine = asked or target.engines[0]
    if engine not in target.engines:
        elsewhere = target.engines_elsewhere.get(engine)
        raise UnsupportedError(
            f"{target.title}'s engine '{engine}' {elsewhere}; here there is {' and '.join(target.engines)}"
            if elsewhere
            else f"{target.title} has no engine '{engine}'; it has {', '.join(target.engines)}"
        )
    return engine


class Session:
    """A decoder with its state.

    Args:
        artifact: what is run; its ``context`` is the session's capacity.
        runner: what calls its graphs.

    Attributes:
        capacity: tokens that the state has room for.
        chunk: the most tokens that one step takes.
        vocab_size: token ids are ``0 … vocab_size - 1``.
        state_bytes: memory that the state really takes.
        precision: the coarsest number format that it computes in or stores its state in.
        on_step: told of the tokens fed so far, after each step; None: nobody is.
    """

    def __init__(self, artifact: Artifact, runner: Runner) -> None:
        assert artifact.context is not None, "an encoder keeps no state"
        assert artifact.vocab_size is not None
        self.artifact = artifact
        self.runner = runner
        self.capacity = artifact.context
        self.chunk = artifact.chunk or artifact.context
        self.vocab_size = artifact.vocab_size
        self.precision = runner.precision
        self.on_step: Callable[[int], None] | None = None
        self._position = 0
        # What the caller has to write new rows to.
        self._rows = [tensor for tensor in artifact.state_tensors if tensor.update == "rows"]
        self._state: dict[str, Array] = {
            tensor.name: np.full(tensor.shape, tensor.zero, tensor.numpy_dtype) for tensor in self._rows
        }
        self.state_bytes = runner.state_bytes + sum(array.nbytes for array in self._state.values())

    @property
    def position(self) -> int:
        """Tokens fed since the start or the last `reset`."""
        return self._position

    def feed(self, tokens: Sequence[int] | npt.NDArray[np.integer]) -> npt.NDArray[np.float32]:
        """Append tokens to the context, in chunks, and return the logits after the last one, ``[vocab]``.

        Raises:
            ContextFull: there is no room for all of them; nothing was fed.
            InputError: there are none, or one is not a token of this model; nothing was fed.
        """
        ids = self._checked(tokens)
        for start in range(0, len(ids), self.chunk):
            piece = ids[start : start + self.chunk]
            logits = self._step(piece, self._position)
            self._position += len(piece)
            if self.on_step is not None:
                self.on_step(self._position)
        return logits

    def reset(self) -> None:
        """Forget everything that was fed. Rows of the state are overwritten before they are read again."""
        self._position = 0

    def _step(self, ids: npt.NDArray[np.int64], position: int) -> npt.NDArray[np.float32]:
        """Run 1 to ``chunk`` tokens standing at ``position`` and after it; the logits of the last, ``[vocab]``."""
        self._close_full_windows(position)
        graph = self._graph_for(len(ids), position)
        if graph is None:  # no fixed graph has this length at this place, and says which logits it gives
            if len(ids) == 1:
                raise BundleError(f"no graph of this {self.artifact.target} export takes a token at {position}")
            before = self._graph_for_all_but_logits(len(ids) - 1, position)
            if before is not None:
                self._call(before, ids[:-1], position)
                return self._step(ids[-1:], position + len(ids) - 1)
            for offset, token in enumerate(ids):
                logits = self._step(token[None], position + offset)
            return logits
        outputs = self._call(graph, ids, position)
        rows = outputs[graph.logits.name].reshape(-1, self.vocab_size)
        last = len(ids) - 1 if len(rows) > 1 else 0
        return np.array(rows[last], np.float32)

    def _call(self, graph: Graph, ids: npt.NDArray[np.int64], position: int) -> Mapping[str, Array]:
        """A graph's outputs; those that are rows of the state are in their place."""
        inputs = filled_inputs(graph, ids, position)
        for tensor in self._rows:
            inputs[str(tensor.input)] = self._state[tensor.name]
        outputs = self.runner.call(graph, inputs)
        for tensor in self._rows:
            self._write_rows(tensor, outputs[str(tensor.output)], position, len(ids))
        return outputs

    def _graph_for(self, count: int, position: int) -> Graph | None:
        """The graph to run: of those that take so many tokens here, the smallest with the smallest window.

        Where a graph of a fixed size says which token's logits it gives, it is filled up; where it does not, for all
        but the last token. The rows of what fills it up stand after the tokens: nothing attends to them there, and the
        tokens that come to stand there overwrite them.
        """
        exact = [
            graph
            for graph in self._graphs_with_room(count, position)
            if not graph.fixed or graph.tokens == count or graph.input("logit_index")
        ]
        return min(exact, key=_size, default=None)

    def _graph_for_all_but_logits(self, count: int, position: int) -> Graph | None:
        """The graph that takes these tokens, filled up, whatever logits it gives; None: not worth its call."""
        fits = [each for each in self._graphs_with_room(count, position) if each.tokens <= count * _WORTH]
        return min(fits, key=_size, default=None)

    def _graphs_with_room(self, count: int, position: int) -> list[Graph]:
        return [
            graph
            for graph in self.artifact.graphs
            if graph.tokens >= count and (not graph.fixed or position + graph.tokens <= (graph.window or self.capacity))
        ]

    def _close_full_windows(self, position: int) -> None:
        """Close the graphs of windows that are full, which cannot be called again before a reset: each may hold packed
        weights of its own."""
        for graph in self.artifact.graphs:
            if graph.window and graph.window <= position:
                self.runner.close(graph)

    def _write_rows(self, tensor: StateTensor, rows: Array, position: int, count: int) -> None:
        axis = self.artifact.axes.index("context")
        place = (slice(None),) * axis
        self._state[tensor.name][(*place, slice(position, position + count))] = rows[(*place, slice(count))]

    def _checked(self, tokens: Sequence[int] | npt.NDArray[np.integer]) -> npt.NDArray[np.int64]:
        given = np.asarray(tokens)
        if given.ndim != 1 or given.size == 0 or not np.issubdtype(given.dtype, np.integer):
            raise InputError(f"feed takes a list of one or more token ids, not {_shown(tokens)}")
        ids = given.astype(np.int64)
        wrong = ids[(ids < 0) | (ids >= self.vocab_size)]
        if wrong.size:
            raise InputError(f"token {wrong[0]} is not in this model's vocabulary, 0 to {self.vocab_size - 1}")
        if self._position + ids.size > self.capacity:
            raise ContextFull(
                f"{ids.size} more tokens do not fit: {self._position} of {self.capacity} positions are taken. "
                f"Start over with reset(), or export with a larger context"
            )
        return ids


def _size(graph: Graph) -> tuple[int, int]:
    return graph.tokens, graph.window or 0


def filled_inputs(graph: Graph, ids: npt.NDArray[np.int64], position: int) -> dict[str, Array]:
    """Every input of a graph but the state, for tokens ``ids`` that stand at ``position`` and after it.

    A graph of a fixed size is filled up with token 0, which `Session` allows where that does no harm.
    """
    count = len(ids)
    tokens = graph.tokens if graph.fixed else count
    end = position + count
    sizes = {"tokens": tokens, "end": end, "end + 1": end + 1}
    inputs: dict[str, Array] = {}
    for spec in graph.inputs:
        if spec.role == "state":
            continue
        shape = [sizes[size] if isinstance(size, str) else size for size in spec.shape]
        inputs[spec.name] = _filled(spec, shape, ids, position, tokens).astype(spec.numpy_dtype)
    return inputs


def _filled(spec: TensorSpec, shape: list[int], ids: npt.NDArray[np.int64], position: int, tokens: int) -> Array:
    match spec.role:
        case "tokens":
            return np.concatenate([ids, np.zeros(tokens - len(ids), np.int64)]).reshape(shape)
        case "positions":
            return np.arange(position, position + tokens).reshape(shape)
        case "start":
            return np.full(shape, position)
        case "logit_index":
            return np.full(shape, len(ids) - 1)
        case "length":
            # A named size says it all by itself.
            return np.zeros(shape) if isinstance(spec.shape[-1], str) else np.full(shape, position + len(ids))
        case "mask" if spec.numpy_dtype.startswith("float"):
            visible = np.tri(tokens, shape[-1], position, dtype=bool)
            return np.where(visible, 0.0, np.finfo(spec.numpy_dtype).min).reshape(shape)
        case "mask":
            return np.ones(shape)
    raise InputError(f"the input '{spec.name}' is of the role '{spec.role}', which no decoder has")


class EncoderSession:
    """An encoder.

    Args:
        artifact: what is run.
        runner: what calls its graph.

    Attributes:
        precision: the coarsest number format that it computes in.
    """

    def __init__(self, artifact: Artifact, runner: Runner) -> None:
        self.artifact = artifact
        self.runner = runner
        self.precision = runner.precision
        self._graph = artifact.graphs[0]
        self._spec = artifact.whole_input

    def run(self, inputs: npt.ArrayLike) -> npt.NDArray[np.float32]:
        """Logits ``[n, …]`` of ``n`` inputs ``[n, …]``; more or fewer of them than the artifact's batch will do.

        Pixels are given normalized, whatever the artifact takes: one that takes images is given those that the pixels
        were made from.

        Raises:
            InputError: they are of another shape or type, or one is not a token of this model.
        """
        given = self._checked(np.asarray(inputs))
        batch = self.artifact.batch
        results = []
        for start in range(0, len(given), batch):
            piece = given[start : start + batch]
            # Inputs know nothing of each other, so that any will do to fill up the last batch.
            whole = np.concatenate([piece, np.repeat(piece[:1], batch - len(piece), 0)])
            results.append(self._run(np.ascontiguousarray(whole))[: len(piece)])
        return np.concatenate(results)

    def _run(self, batch: Array) -> npt.NDArray[np.float32]:
        """Logits ``[batch, …]`` of exactly one batch."""
        outputs = self.runner.call(self._graph, {self._spec.name: batch})
        return np.array(outputs[self._graph.logits.name], np.float32)  # a copy: the runner's may be written anew

    def _checked(self, given: Array) -> Array:
        shape, vocab_size = self._spec.shape[1:], self.artifact.vocab_size
        kind, what = (np.floating, "numbers") if vocab_size is None else (np.integer, "token ids")
        if given.shape[1:] != shape or not given.size or not np.issubdtype(given.dtype, kind):
            raise InputError(
                f"this model takes {what} of shape [n, {', '.join(map(str, shape))}], not {given.dtype} of shape "
                f"{list(given.shape)}"
            )
        if vocab_size is not None:
            wrong = given[(given < 0) | (given >= vocab_size)]
            if wrong.size:
                raise InputError(f"token {wrong.flat[0]} is not in this model's vocabulary, 0 to {vocab_size - 1}")
            return given.astype(self._spec.numpy_dtype)
        if not np.isfinite(given).all():
            raise InputError("the input holds NaN or infinity")
        if (made := self.artifact.normalization) is not None:
            return denormalized(given.astype(np.float32), made.mean, made.std)
        largest, limit = float(np.abs(given).max()), float(np.finfo(self._spec.numpy_dtype).max)
        if largest > limit:
            raise InputError(f"the input reaches {largest:.4g}, beyond {self._spec.dtype}'s largest number {limit:.5g}")
        return given.astype(self._spec.numpy_dtype)


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
