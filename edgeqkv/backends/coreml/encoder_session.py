"""Running an encoder's Core ML export: with Core ML on a Mac, with edgeqkv's own evaluator anywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from edgeqkv.backends.coreml.engines import Engine, open_engine
from edgeqkv.bundle.manifest import EncoderArtifact
from edgeqkv.errors import InputError
from edgeqkv.model.pixels import denormalized
from edgeqkv.run.session import EncoderSession

__all__ = ["CoreMLEncoderSession"]

_MAIN: Final = "main"
_LARGEST: Final = float(np.finfo(np.float16).max)


class CoreMLEncoderSession(EncoderSession):
    """A session on the function of a package.

    It takes normalized pixels whatever the package takes, as every target's session does: a package that takes images
    is given those that the pixels were made from.

    Args:
        directory: where the package lies.
        artifact: its description.
        engine: "evaluator", "evaluator-fp16", or on a Mac "coreml"; or an engine that is open already.

    Raises:
        UnsupportedError: there is no such engine here.
    """

    def __init__(self, directory: Path, artifact: EncoderArtifact, engine: str | Engine = "evaluator") -> None:
        self._function = artifact.function or _MAIN
        if isinstance(engine, str):
            engine = open_engine(engine, directory / artifact.file, [self._function], artifact.form)
        self._engine = engine
        super().__init__(artifact, engine.precision)

    def _run(self, batch: npt.NDArray[np.generic]) -> npt.NDArray[np.float32]:
        logits = self._engine.predict(self._function, {self.artifact.input.name: self._given(batch)})
        return np.asarray(logits, np.float32)

    def _given(self, batch: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """A batch in the type that the package declares."""
        told = self.artifact.normalization
        if told is not None:
            return denormalized(batch, told.mean, told.std)
        if self.artifact.values is not None:
            return batch.astype(np.int32)
        largest = float(np.abs(batch).max())
        if largest > _LARGEST:
            raise InputError(f"the input reaches {largest:.4g}, beyond fp16's largest number {_LARGEST:.5g}")
        return batch.astype(np.float16)
