"""ONNX, for ONNX Runtime on anything: graphs built directly, in pure ``ai.onnx`` where that is possible."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Final

from edgeqkv.backends.target import Form, SelfContained, TargetSpec
from edgeqkv.extras import needed_for
from edgeqkv.model.schemes import INT4, INT8, Palette, Scheme
from edgeqkv.threads import threads_wanted

if TYPE_CHECKING:
    from edgeqkv.backends.inspection import FileFacts
    from edgeqkv.backends.onnx.memory import OnnxMemory
    from edgeqkv.backends.onnx.runner import OnnxRunner
    from edgeqkv.bundle.manifest import Artifact
    from edgeqkv.model.model import Model
    from edgeqkv.progress import Progress

__all__ = ["TARGET", "OnnxTarget"]


class OnnxTarget(SelfContained):
    """Graphs whose state is an input and an output, to be bound to the same memory."""

    name = "onnx"
    title = "ONNX"
    packages = ("onnxruntime", "onnx-ir", "onnx")
    extra = "onnx"
    forms = (
        Form("portable", "one graph for prefill and decode, which reads only the filled part of the state"),
        Form(
            "static",
            "fixed shapes throughout, for any runtime and for NPUs; of a language model a prefill and a decode graph "
            "for each window of the state",
            encoder=True,
            static=True,
        ),
        Form("ort", "ONNX Runtime's own fused attention on one buffer"),
        Form("genai", "a folder that the stock onnxruntime-genai runtime opens"),
    )
    schemes: ClassVar[Mapping[str, Scheme | Palette | None]] = {"int4": INT4, "int8": INT8, "fp16": None, "fp32": None}
    states = ("fp32", "fp16", "int8")
    suffixes = (".onnx",)
    takes_images = False
    engines = ("onnxruntime", "exact")
    proof_engine = "exact"

    def proven_engines(self, weights: str) -> tuple[str, ...]:
        # Floating-point weights are multiplied alike by both; of codes, what an app runs rounds what they meet.
        return ("exact",) if self.schemes[weights] is None else ("exact", "onnxruntime")

    @cached_property
    def memory(self) -> OnnxMemory:
        """What its exports take of a process's memory."""
        from edgeqkv.backends.onnx.memory import OnnxMemory

        return OnnxMemory(self.schemes)

    def export(self, model: Model, directory: Path, spec: TargetSpec, on_progress: Progress) -> Artifact:
        with needed_for("exporting to ONNX"):
            from edgeqkv.backends.onnx.export import export
        return export(model, directory, spec, on_progress)

    def open(self, directory: Path, artifact: Artifact, engine: str) -> OnnxRunner:
        with needed_for("running an ONNX bundle"):
            from edgeqkv.backends.onnx.runner import OnnxRunner
        return OnnxRunner(directory, artifact, engine, threads_wanted())

    def inspect(self, path: Path) -> FileFacts:
        with needed_for("reading an ONNX model"):
            from edgeqkv.backends.onnx.inspection import inspect
        return inspect(path)


TARGET: Final = OnnxTarget()
