"""Running an encoder's ``.pte`` in ExecuTorch's own runtime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from edgeqkv.backends.executorch.session import load, precision_of
from edgeqkv.bundle.manifest import EncoderArtifact
from edgeqkv.run.session import EncoderSession

__all__ = ["ExecuTorchEncoderSession"]


class ExecuTorchEncoderSession(EncoderSession):
    """A session on ``model.pte``.

    Raises:
        BundleError: the file is missing or damaged, or the runtime refuses it.
    """

    def __init__(self, directory: Path, artifact: EncoderArtifact) -> None:
        super().__init__(artifact, precision_of(artifact.weights))
        (self._method,) = load(directory / artifact.file, [str(artifact.function)], custom=False)

    def _run(self, batch: npt.NDArray[np.generic]) -> npt.NDArray[np.float32]:
        (logits,) = self._method.execute([torch.from_numpy(batch)])
        # The runtime's output lies in planned memory, which the next call overwrites.
        result: npt.NDArray[np.float32] = logits.numpy().copy()
        return result
