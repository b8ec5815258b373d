"""Core ML, for iPhones, iPads and Macs: a package with prefill and decode functions on one state, or an encoder's.

Programs are built with coremltools, which writes them on any machine. Running them takes Apple hardware; on
other machines, `edgeqkv.mil` runs the saved package operation by operation.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Final

from edgeqkv.backends.target import Form, Runner, SelfContained, TargetSpec
from edgeqkv.extras import needed_for
from edgeqkv.model.schemes import INT4, INT8, LUT4, Palette, Scheme

if TYPE_CHECKING:
    from edgeqkv.backends.coreml.memory import CoreMLMemory
    from edgeqkv.backends.inspection import FileFacts
    from edgeqkv.bundle.manifest import Artifact
    from edgeqkv.model.model import Model
    from edgeqkv.progress import Progress

__all__ = ["TARGET", "CoreMLTarget"]


class CoreMLTarget(SelfContained):
    """ML Programs (iOS 18, macOS 15) in fp16, whose state the system keeps."""

    name = "coreml"
    title = "Core ML"
    packages = ("coremltools",)
    extra = "coreml"
    forms = (
        Form(
            "linear",
            "GPU and CPU: matrix products, new rows written into the state at their position",
            encoder=True,
            static=True,
        ),
        Form("linear-onehot", "as linear, the state updated at constant indices", static=True),
        Form(
            "conv",
            "Neural Engine: 1x1 convolutions, the state updated at constant indices, no dimension over 16384",
            encoder=True,
            static=True,
        ),
        Form("conv-slice", "as conv, new rows written into the state at their position", static=True),
        Form("swift-transformers", "for that library's runner, with fullAttentionMask (its pull request 331)"),
        Form("swift-transformers-1", "for that library's runner, with causalMask (its releases up to 1.3.3)"),
    )
    schemes: ClassVar[Mapping[str, Scheme | Palette | None]] = {"int4": INT4, "int8": INT8, "lut4": LUT4, "fp16": None}
    states = ("fp16",)
    suffixes = (".mlpackage",)
    takes_images = True
    engines = (*(("coreml",) if sys.platform == "darwin" else ()), "evaluator", "evaluator-fp16")
    engines_elsewhere: Mapping[str, str] = MappingProxyType(
        {} if sys.platform == "darwin" else {"coreml": "runs on a Mac only"}
    )
    proof_engine = "evaluator"
    range_engine = "evaluator-fp16"
    self_describing = (".mlpackage",)

    @cached_property
    def memory(self) -> CoreMLMemory:
        """What its exports take of a process's memory."""
        from edgeqkv.backends.coreml.memory import CoreMLMemory

        return CoreMLMemory(self.schemes)

    def export(self, model: Model, directory: Path, spec: TargetSpec, on_progress: Progress) -> Artifact:
        with needed_for("exporting to Core ML"):
            from edgeqkv.backends.coreml.export import export
        return export(model, directory, spec, on_progress)

    def open(self, directory: Path, artifact: Artifact, engine: str) -> Runner:
        with needed_for("running a Core ML bundle"):
            from edgeqkv.backends.coreml.runner import open_runner
        return open_runner(directory, artifact, engine)

    def describe(self, path: Path) -> Artifact:
        with needed_for("reading a Core ML package"):
            from edgeqkv.backends.coreml.standalone import read_artifact
        return read_artifact(path)

    def examine(self, path: Path) -> dict[str, Any]:
        with needed_for("running a Core ML package"):
            from edgeqkv.backends.coreml.standalone import examine
        return examine(path)

    def inspect(self, path: Path) -> FileFacts:
        with needed_for("reading a Core ML package"):
            from edgeqkv.backends.coreml.inspection import inspect
        return inspect(path)


TARGET: Final = CoreMLTarget()
