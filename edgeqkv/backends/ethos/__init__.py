"""Ethos-U85, Arm's NPU for embedded systems: whole numbers throughout, compiled by Vela into an ExecuTorch program.

The graphs that were compiled are kept beside the program: Arm's reference model of TOSA computes them on any machine,
to the last bit as TOSA defines them. Nothing here has run on a chip.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Final

from edgeqkv.backends.ethos.forms import EXPERIMENTAL
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


class EthosTarget(SelfContained):
    """Static graphs of whole numbers whose state is an input, and whose new rows the caller writes back to it."""

    name = "ethos-u85"
    title = "Ethos-U85"
    packages = ("torch", "executorch", "ethos-u-vela", "tosa-tools")
    extra = "ethos-u"
    forms = (
        Form(
            "a16w8",
            "fixed shapes, 16-bit activations; of a language model a prefill and a decode graph, whose new rows of the "
            "state the caller writes back",
            encoder=True,
            static=True,
        ),
        Form(
            "int8",
            "experimental: as a16w8, but what enters a product has 8 bits: fewer cycles, less exact",
            encoder=True,
            static=True,
        ),
    )
    schemes: ClassVar[Mapping[str, Scheme | Palette | None]] = {"int8": INT8_ROWS}
    states = ("int8",)
    takes_images = False
    engines = ("tosa",)
    proof_engine = "tosa"
    socs = ("256", "128", "512", "1024", "2048")
    memory_modes = (
        "Sram_Only",
        "Shared_Sram",
        "Dedicated_Sram",
        "Dedicated_Sram_256KB",
        "Dedicated_Sram_384KB",
        "Dedicated_Sram_512KB",
    )
    system_configs = (
        "Ethos_U85_SYS_DRAM_Mid",
        "Ethos_U85_SYS_DRAM_Low",
        "Ethos_U85_SYS_DRAM_High",
        "Ethos_U85_SYS_Flash_Low",
        "Ethos_U85_SYS_Flash_High",
    )
    needs_examples = True
    experimental = EXPERIMENTAL

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
