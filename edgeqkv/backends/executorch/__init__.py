"""ExecuTorch: one ``.pte`` that the stock runners drive, with the state in the file's own memory plan.

Nothing of ExecuTorch is imported before `ExecuTorchTarget.export` or `ExecuTorchTarget.open` is called.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Final

from edgeqkv.backends.target import Form, SelfContained, TargetSpec
from edgeqkv.extras import needed_for
from edgeqkv.model.schemes import INT4, INT8_ROWS, Palette, Scheme

if TYPE_CHECKING:
    from edgeqkv.backends.executorch.memory import ExecuTorchMemory
    from edgeqkv.backends.executorch.runner import ExecuTorchRunner
    from edgeqkv.backends.inspection import FileFacts
    from edgeqkv.bundle.manifest import Artifact
    from edgeqkv.model.model import Model
    from edgeqkv.progress import Progress

__all__ = ["TARGET", "ExecuTorchTarget"]


class ExecuTorchTarget(SelfContained):
    """Exports through ``torch.export`` and XNNPACK; runs in ExecuTorch's own runtime."""

    name = "executorch"
    title = "ExecuTorch"
    packages = ("torch", "executorch", "torchao")
    extra = "executorch"
    forms = (
        Form("stock", "one method 'forward' for 1 to chunk tokens, as the stock LLM runners call it"),
        Form(
            "static",
            "methods of fixed shapes: 'prefill' and 'decode', that share weights and state; 'forward' of an encoder",
            encoder=True,
            static=True,
        ),
        Form("portable", "as stock, but of core operators only: no custom attention, no update_cache"),
    )
    # XNNPACK's int4 blocks are multiples of 32; of int8 it knows one scale a row. What it multiplies by either is int8.
    schemes: ClassVar[Mapping[str, Scheme | Palette | None]] = {
        "int4": replace(INT4, smallest=32, activations=8),
        "int8": replace(INT8_ROWS, activations=8),
        "fp32": None,
        "fp16": None,
    }
    states = ("fp32", "fp16", "int8")
    suffixes = (".pte",)
    takes_images = False
    engines = ("executorch",)
    proof_engine = "executorch"

    @cached_property
    def memory(self) -> ExecuTorchMemory:
        """What its exports take of a process's memory."""
        from edgeqkv.backends.executorch.memory import ExecuTorchMemory

        return ExecuTorchMemory(self.schemes)

    def export(self, model: Model, directory: Path, spec: TargetSpec, on_progress: Progress) -> Artifact:
        """Write ``model.pte`` into ``directory``."""
        with needed_for("exporting to ExecuTorch"):
            from edgeqkv.backends.executorch.export import export
        return export(model, directory, spec, on_progress)

    def open(self, directory: Path, artifact: Artifact, engine: str) -> ExecuTorchRunner:
        with needed_for("running an ExecuTorch model"):
            from edgeqkv.backends.executorch.runner import ExecuTorchRunner
        return ExecuTorchRunner(directory, artifact)

    def inspect(self, path: Path) -> FileFacts:
        with needed_for("reading an ExecuTorch program"):
            from edgeqkv.backends.executorch.inspection import inspect
        return inspect(path)


TARGET: Final = ExecuTorchTarget()
