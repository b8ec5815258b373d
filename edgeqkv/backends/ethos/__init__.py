"""Ethos-U85, Arm's NPU for embedded systems: integer graphs, compiled by ExecuTorch's Arm backend and Vela.

The graphs that were compiled are kept beside the program: Arm's reference model of TOSA computes them on any machine,
with the rounding of the NPU. Nothing here has run on a chip.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Final

from edgeqkv.backends.target import Form, SelfContained, TargetSpec
from edgeqkv.extras import needed_for
from edgeqkv.model.schemes import INT8_ROWS, Palette, Scheme

if TYPE_CHECKING:
    from edgeqkv.backends.ethos.memory import EthosMemory
    from edgeqkv.backends.ethos.runner import EthosRunner
    from edgeqkv.bundle.manifest import Artifact
    from edgeqkv.model.model import Model
    from edgeqkv.progress import Progress

__all__ = ["TARGET", "EthosTarget"]

_UNPROVEN: Final = (
    "experimental: one range a tensor for activations of 8 bits. That its perplexity stays within 3 % of the "
    "original's was not shown; measure it with --text"
)


class EthosTarget(SelfContained):
    """Static graphs of integers whose state is an input, and whose new rows the caller writes back to it."""

    name = "ethos-u85"
    title = "Ethos-U85"
    packages = ("torch", "executorch", "ethos-u-vela", "tosa-tools")
    extra = "ethos-u"
    forms = (
        Form(
            "int8",
            "experimental: 8-bit activations, fixed shapes; a prefill and a decode graph, whose new rows of the state "
            "the caller writes back",
            static=True,
        ),
    )
    schemes: ClassVar[Mapping[str, Scheme | Palette | None]] = {"int8": INT8_ROWS}
    states = ("int8",)
    takes_images = False
    engines = ("tosa",)
    proof_engine = "tosa"
    socs = ("256", "128", "512", "1024", "2048")
    needs_examples = True
    experimental: Mapping[str, str] = {"int8": _UNPROVEN}

    @cached_property
    def memory(self) -> EthosMemory:
        """What its exports take of a system's memory."""
        from edgeqkv.backends.ethos.memory import EthosMemory

        return EthosMemory(self.schemes)

    def export(self, model: Model, directory: Path, spec: TargetSpec, on_progress: Progress) -> Artifact:
        with needed_for("exporting for Ethos-U85"):
            from edgeqkv.backends.ethos.export import export
        return export(model, directory, spec, on_progress)

    def open(self, directory: Path, artifact: Artifact, engine: str) -> EthosRunner:
        with needed_for("running an Ethos-U85 bundle in Arm's reference model"):
            from edgeqkv.backends.ethos.runner import EthosRunner
        return EthosRunner(directory, artifact)


TARGET: Final = EthosTarget()
