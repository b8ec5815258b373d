"""ExecuTorch: one ``.pte`` that the stock runners drive, with the state in the file's own memory plan.

Nothing of ExecuTorch is imported before `ExecuTorchBackend.export` or `ExecuTorchBackend.open` is called.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, TypeVar

from edgeqkv.extras import needed_for

if TYPE_CHECKING:
    from edgeqkv.backends import EncoderRequest, Request
    from edgeqkv.bundle.manifest import Artifact, EncoderArtifact
    from edgeqkv.model.model import EncoderModel, Model, TrainedModel
    from edgeqkv.progress import Report
    from edgeqkv.run.session import EncoderSession, Session

__all__ = ["BACKEND", "ExecuTorchBackend"]

M = TypeVar("M", bound="TrainedModel")


class ExecuTorchBackend:
    """Exports through ``torch.export`` and XNNPACK; runs in ExecuTorch's own runtime."""

    name = "executorch"
    title = "ExecuTorch"
    packages = ("torch", "executorch", "torchao")
    extra = "executorch"
    forms: Mapping[str, str] = MappingProxyType(
        {
            "stock": "one method 'forward' for 1 to chunk tokens, as the stock LLM runners call it",
            "static": "two methods of fixed shapes, 'prefill' and 'decode', that share weights and state",
            "portable": "as stock, but of core operators only: no custom attention, no update_cache",
        }
    )
    encoder_forms: Mapping[str, str] = MappingProxyType({"static": "one method 'forward' of fixed shapes"})
    weights = ("int4", "int8", "fp32", "fp16")
    states = ("fp32", "fp16", "int8")
    takes_images = False
    engines = ("executorch",)
    proof_engine = "executorch"

    def stores(self, model: M) -> M:
        """The model with its quantized matrices in schemes that XNNPACK has: it takes int8 a row at a time.

        Raises:
            UnsupportedError: an int4 matrix has blocks that XNNPACK does not take.
        """
        from edgeqkv.backends.executorch.fitting import fitted

        return fitted(model)

    def export(self, model: Model, directory: Path, request: Request, report: Report) -> Artifact:
        """Write ``model.pte`` into ``directory``."""
        with needed_for("exporting to ExecuTorch"):
            from edgeqkv.backends.executorch.export import export
        return export(model, directory, request, report)

    def open(self, directory: Path, artifact: Artifact, engine: str) -> Session:
        """A session on the ``model.pte`` in ``directory``.

        Raises:
            BundleError: the file is missing or damaged.
        """
        with needed_for("running an ExecuTorch model"):
            from edgeqkv.backends.executorch.session import ExecuTorchSession
        return ExecuTorchSession(directory, artifact)

    def export_encoder(
        self, model: EncoderModel, directory: Path, request: EncoderRequest, report: Report
    ) -> EncoderArtifact:
        """Write ``model.pte`` into ``directory``."""
        with needed_for("exporting to ExecuTorch"):
            from edgeqkv.backends.executorch.encoder_export import export_encoder
        return export_encoder(model, directory, request, report)

    def open_encoder(self, directory: Path, artifact: EncoderArtifact, engine: str) -> EncoderSession:
        """A session on the ``model.pte`` in ``directory``.

        Raises:
            BundleError: the file is missing or damaged.
        """
        with needed_for("running an ExecuTorch model"):
            from edgeqkv.backends.executorch.encoder_session import ExecuTorchEncoderSession
        return ExecuTorchEncoderSession(directory, artifact)


BACKEND: Final = ExecuTorchBackend()
