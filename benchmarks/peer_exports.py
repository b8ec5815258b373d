"""edgeqkv's own rows of `benchmarks.peers`: exports of the paper's 300M model, of random numbers."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final

import edgeqkv
from benchmarks.measure import checkpoint
from edgeqkv import quantize
from edgeqkv.backends import backend
from edgeqkv.backends.target import TargetSpec
from edgeqkv.model.model import Model
from edgeqkv.model.schemes import with_block
from edgeqkv.model.state import StateScales
from edgeqkv.progress import silent

__all__ = ["MADE", "OWN", "Made", "Own", "export_own"]

MERGED: Final = "q-k=v+gqa4"
SEPARATE: Final = "qkv+gqa4"
BLOCK: Final = 128
MADE: Final = "made.json"
SCALE: Final = 0.05  # of an int8 state: what is computed does not matter, nor does it change how long that takes


@dataclass(frozen=True)
class Made:
    """What an export took, without a check of it: wall time, and time of all processors.

    Of a peer it is that of its exporter's whole process, of edgeqkv's rows that of the export alone.
    """

    seconds: float
    processor_seconds: float

    def write(self, folder: Path) -> None:
        """Keep it beside what was made."""
        (folder / MADE).write_text(json.dumps(asdict(self)))


@dataclass(frozen=True)
class Own:
    """An export in int4."""

    variant: str
    form: str
    state: str
    context: int = 2048
    block: int = BLOCK
    target: str = "onnx"

    @property
    def folder(self) -> str:
        return f"{self.target}-{self.variant}-{self.form}-{self.state}-{self.context}-{self.block}"

    @property
    def separate(self) -> Own:
        """The same of a model whose keys and values are apart."""
        return replace(self, variant=SEPARATE)


def _both(name: str, own: Own) -> dict[str, Own]:
    return {name: own, f"{name}, separate": own.separate}


OWN: Final[Mapping[str, Own]] = {
    **_both("portable, fp32 state", Own(MERGED, "portable", "fp32")),
    **_both("portable, int8 state", Own(MERGED, "portable", "int8")),
    **_both("ort, fp32 state", Own(MERGED, "ort", "fp32")),
    "ort, int8 state": Own(MERGED, "ort", "int8"),
    "portable, fp32 state, block 32": Own(MERGED, "portable", "fp32", block=32),
    **_both("portable, fp32 state, 8192", Own(MERGED, "portable", "fp32", 8192)),
    **_both("portable, int8 state, 8192", Own(MERGED, "portable", "int8", 8192)),
    **_both("ort, fp32 state, 8192", Own(MERGED, "ort", "fp32", 8192)),
    "ExecuTorch stock, fp32 state": Own(MERGED, "stock", "fp32", target="executorch"),
    "ExecuTorch static, fp32 state": Own(MERGED, "static", "fp32", target="executorch"),
}


def export_own(chosen: Mapping[str, Own], folder: Path, layers: int) -> None:
    """Write the exports of a model of so many layers, each with its ``artifact.json``."""
    for variant, block in dict.fromkeys((own.variant, own.block) for own in chosen.values()):
        model = edgeqkv.load(checkpoint("300m", variant, n_positions=8192, n_layer=layers))
        for target, context in dict.fromkeys(
            (own.target, own.context) for own in chosen.values() if (own.variant, own.block) == (variant, block)
        ):
            schemes = with_block(backend(target).schemes, block)
            stored = quantize.apply(model.with_context(context), quantize.QuantConfig("int4", schemes=schemes))
            for own in chosen.values():
                if (own.variant, own.block, own.target, own.context) == (variant, block, target, context):
                    _export(stored, own, folder / own.folder)


def _export(stored: Model, own: Own, folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    if own.state == "int8":
        names = [spec.name for spec in stored.state(own.context)]
        stored = replace(stored, state_scales=StateScales(dict.fromkeys(names, SCALE)))
    spec = TargetSpec(own.form, "int4", own.state, own.context, 128, block=own.block)
    started, processor = time.perf_counter(), time.process_time()
    artifact = backend(own.target).export(stored, folder, spec, silent)
    Made(round(time.perf_counter() - started, 1), round(time.process_time() - processor, 1)).write(folder)
    (folder / "artifact.json").write_text(artifact.model_dump_json())  # what says that all of it is there
