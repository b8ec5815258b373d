"""Hexagon, the NPU of Qualcomm's phones: integer graphs, compiled for one chip where its compiler is installed.

An export is made of QDQ graphs, which ONNX Runtime runs on any machine, and of what onnxruntime-qnn compiled of them.
That package has a simulation of the NPU (HTP) for x86 Linux; nothing here has run on a chip.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Final

from edgeqkv.backends.target import Form, SelfContained, TargetSpec
from edgeqkv.extras import needed_for
from edgeqkv.model.schemes import INT4_MULTIPLES, INT8_ROWS, Palette, Scheme

if TYPE_CHECKING:
    from edgeqkv.backends.hexagon.memory import HexagonMemory
    from edgeqkv.backends.hexagon.runner import HexagonRunner
    from edgeqkv.bundle.manifest import Artifact
    from edgeqkv.model.model import Model
    from edgeqkv.progress import Progress

__all__ = ["TARGET", "HexagonTarget"]


class HexagonTarget(SelfContained):
    """Static graphs of integers whose state is an input, and whose new rows the caller writes back to it."""

    name = "hexagon"
    title = "Hexagon"
    packages = ("onnxruntime", "onnx", "onnxruntime-qnn")
    extra = "hexagon"
    forms = (
        Form(
            "qdq",
            "fixed shapes, 16-bit activations; of a language model a prefill and a decode graph, whose new rows of the "
            "state the caller writes back",
            encoder=True,
            static=True,
        ),
    )
    schemes: ClassVar[Mapping[str, Scheme | Palette | None]] = {"int8": INT8_ROWS, "int4": INT4_MULTIPLES}
    states = ("int8",)
    takes_images = False
    engines = ("onnxruntime", "simulator")
    proof_engine = "onnxruntime"
    socs = ("v75", "v73", "v79", "v81")
    heads: Mapping[str, str] = {"int4": "int8"}
    needs_examples = True

    @cached_property
    def memory(self) -> HexagonMemory:
        """What its exports take of a process's memory and of the NPU's."""
        from edgeqkv.backends.hexagon.memory import HexagonMemory

        return HexagonMemory(self.schemes)

    def export(self, model: Model, directory: Path, spec: TargetSpec, on_progress: Progress) -> Artifact:
        with needed_for("exporting for Hexagon"):
            from edgeqkv.backends.hexagon.export import export
        return export(model, directory, spec, on_progress)

    def open(self, directory: Path, artifact: Artifact, engine: str) -> HexagonRunner:
        with needed_for("running a Hexagon bundle"):
            from edgeqkv.backends.hexagon.runner import HexagonRunner
        return HexagonRunner(directory, artifact, engine)


TARGET: Final = HexagonTarget()
