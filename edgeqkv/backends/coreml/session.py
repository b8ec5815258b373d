"""Running a language model's Core ML export: which of its functions is called, with what.

That is the same whatever calls them (`edgeqkv.backends.coreml.engines`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from edgeqkv.backends.coreml.engines import Engine, open_engine
from edgeqkv.bundle.manifest import Artifact
from edgeqkv.run.session import Session

__all__ = ["CoreMLSession"]


class CoreMLSession(Session):
    """A session on the functions of a package.

    Args:
        directory: where the package lies.
        artifact: its description.
        engine: "evaluator", "evaluator-fp16", or on a Mac "coreml"; or an engine that is open already.

    Raises:
        UnsupportedError: there is no such engine here.
    """

    def __init__(self, directory: Path, artifact: Artifact, engine: str | Engine = "evaluator") -> None:
        path = directory / artifact.graphs[0].file
        self._graphs = artifact.graphs
        functions = [graph.name for graph in artifact.graphs]
        self._engine = open_engine(engine, path, functions, artifact.form) if isinstance(engine, str) else engine
        super().__init__(
            capacity=artifact.context,
            chunk=artifact.chunk,
            vocab_size=artifact.vocab_size,
            state_bytes=artifact.state_bytes,
            precision=self._engine.precision,
        )

    def _step(self, ids: npt.NDArray[np.int64], position: int) -> npt.NDArray[np.float32]:
        graph = next((each for each in self._graphs if not each.fixed or each.tokens == len(ids)), None)
        if graph is None:  # what does not fill a chunk: one token at a time always fits
            for offset, token in enumerate(ids):
                logits = self._step(token[None], position + offset)
            return logits
        tokens, told = (spec.name for spec in graph.inputs)
        inputs = {tokens: ids.astype(np.int32)[None], told: _TOLD[told](len(ids), position)}
        rows = self._engine.predict(graph.name, inputs).reshape(-1, self.vocab_size)
        return np.asarray(rows[-1], np.float32)


def _position(count: int, position: int) -> npt.NDArray[np.int32]:
    return np.array([position], np.int32)


def _additive_mask(count: int, position: int) -> npt.NDArray[np.float16]:
    """``[1, 1, count, position + count]``, as swift-transformers' pull request 331 makes it."""
    visible = np.tri(count, position + count, position, dtype=bool)
    return np.where(visible, np.float16(0), np.finfo(np.float16).min)[None, None]


def _zeros(count: int, position: int) -> npt.NDArray[np.float16]:
    """``[1, 1, 1, position + count + 1]``, as swift-transformers' releases make it."""
    return np.zeros((1, 1, 1, position + count + 1), np.float16)


_TOLD: Final[Mapping[str, Callable[[int, int], npt.NDArray[Any]]]] = {
    "position": _position,
    "fullAttentionMask": _additive_mask,
    "causalMask": _zeros,
}
"""What says where the tokens of a call stand, by the name of the input, from their count and first position."""
