"""Running a ``.pte`` in ExecuTorch's own runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from edgeqkv.backends.executorch.program import ProgramFile
from edgeqkv.backends.executorch.quiet import native_stderr_captured, third_party_notices_silenced
from edgeqkv.bundle.manifest import Artifact
from edgeqkv.errors import BundleError
from edgeqkv.quantize import SCHEMES
from edgeqkv.run.session import Session

with third_party_notices_silenced():
    from executorch.runtime import Runtime

__all__ = ["ExecuTorchSession", "load", "precision_of"]


class ExecuTorchSession(Session):
    """A decoder in a ``.pte``. The runtime holds the state, in memory that it plans from the file.

    Raises:
        BundleError: the file is missing or damaged, or the runtime refuses it.
    """

    def __init__(self, directory: Path, artifact: Artifact) -> None:
        path = directory / artifact.graphs[0].file
        plans = ProgramFile(path).plans()
        missing = {graph.name for graph in artifact.graphs} - plans.keys()
        if missing:
            raise BundleError(f"{path} has no method '{min(missing)}'; export it again")
        # A state that several methods share lies at one place in memory.
        state = {(b.arena, b.offset): b.nbytes for plan in plans.values() for b in plan.buffers}
        super().__init__(
            capacity=artifact.context,
            chunk=artifact.chunk,
            vocab_size=artifact.vocab_size,
            state_bytes=sum(state.values()),
            precision=precision_of(artifact.weights, artifact.state),
        )
        self._fixed = artifact.graphs[0].fixed
        methods = load(path, [graph.name for graph in artifact.graphs], custom=artifact.form != "portable")
        self._prefill, self._decode = methods[0], methods[-1]

    def _step(self, ids: npt.NDArray[np.int64], position: int) -> npt.NDArray[np.float32]:
        if self._fixed and len(ids) < self.chunk:
            # A piece that does not fill the fixed prefill goes token by token.
            for index in range(len(ids)):
                logits = _call(self._decode, ids[index : index + 1], position + index)
            return logits
        return _call(self._prefill, ids, position)


def precision_of(weights: str, state: str = "fp32") -> str:
    """The coarsest number format that a program with such weights and such a state computes in."""
    if weights in SCHEMES:
        return "int8-activations"
    return next((each for each in ("int8", "fp16") if each in (state, weights)), "fp32")


def _call(method: Any, ids: npt.NDArray[np.int64], position: int) -> npt.NDArray[np.float32]:
    (logits,) = method.execute([torch.from_numpy(ids)[None], torch.tensor([position])])
    # The runtime's output lies in planned memory, which the next call overwrites.
    result: npt.NDArray[np.float32] = logits[0].numpy().copy()
    return result


def load(path: Path, methods: list[str], *, custom: bool) -> list[Any]:
    """Methods of a program, loaded; ``custom`` says that it needs the LLM extension's operators.

    Raises:
        BundleError: the file is missing or damaged, or the runtime refuses it.
    """
    with third_party_notices_silenced(), native_stderr_captured() as log:
        import executorch.kernels.quantized  # noqa: F401  registers its kernels

        if custom:
            from executorch.extension.llm.custom_ops import custom_ops  # noqa: F401  registers its kernels
        try:
            program = Runtime.get().load_program(path)
            return [program.load_method(method) for method in methods]
        except RuntimeError as error:
            reason = log().splitlines()[-1:] or [str(error)]
            raise BundleError(f"ExecuTorch cannot load {path}: {reason[0]}") from error
