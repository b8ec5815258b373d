"""Running an encoder's ONNX export in ONNX Runtime on the CPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgeqkv.backends.onnx.session import opened, settings
from edgeqkv.bundle.manifest import EncoderArtifact
from edgeqkv.run.session import EncoderSession

__all__ = ["OnnxEncoderSession"]


class OnnxEncoderSession(EncoderSession):
    """A session on ``model.onnx``. ``threads`` is how many the runtime uses; 0: as many as it likes."""

    def __init__(
        self, directory: Path, artifact: EncoderArtifact, engine: str = "onnxruntime", threads: int = 0
    ) -> None:
        super().__init__(artifact)
        self._session = opened(directory / artifact.file, settings(engine, artifact), threads)

    def _run(self, batch: npt.NDArray[np.generic]) -> npt.NDArray[np.float32]:
        (logits,) = self._session.run([self.artifact.output.name], {self.artifact.input.name: batch})
        result: npt.NDArray[np.float32] = logits
        return result
