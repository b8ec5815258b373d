"""Core ML, for iPhones, iPads and Macs: a package with prefill and decode functions on one state.

Programs are built with coremltools, which writes them on any machine. Running them takes Apple hardware; on
other machines, `edgeqkv.backends.coreml.evaluator` runs the saved package operation by operation.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from edgeqkv.artifact import Artifact
from edgeqkv.extras import needed_for

if TYPE_CHECKING:
    from edgeqkv.backends import Request
    from edgeqkv.model import Model
    from edgeqkv.progress import Report
    from edgeqkv.session import Session

__all__ = ["BACKEND", "CoreMLBackend"]


class CoreMLBackend:
    """ML Programs (iOS 18, macOS 15) in fp16, whose state the system keeps."""

    name = "coreml"
    title = "Core ML"
    packages = ("coremltools",)
    extra = "coreml"
    forms: Mapping[str, str] = MappingProxyType(
        {
            "linear": "GPU and CPU: matrix products, new rows written into the state at their position",
            "linear-onehot": "as linear, the state updated at constant indices",
            "conv": "Neural Engine: 1x1 convolutions, the state updated at constant indices, no dimension over 16384",
            "conv-slice": "as conv, new rows written into the state at their position",
            "swift-transformers": "for that library's runner, with fullAttentionMask (its pull request 331)",
            "swift-transformers-1": "for that library's runner, with causalMask (its releases up to 1.3.3)",
        }
    )
    weights = ("int4", "int8", "lut4", "fp16")
    states = ("fp16",)
    state_forms: Mapping[str, tuple[str, ...]] = MappingProxyType({})
    engines = (*(("coreml",) if sys.platform == "darwin" else ()), "evaluator", "evaluator-fp16")
    proof_engine = "evaluator"

    def stores(self, model: Model) -> Model:
        return model

    def export(self, model: Model, directory: Path, request: Request, report: Report) -> Artifact:
        with needed_for("exporting to Core ML"):
            from edgeqkv.backends.coreml.export import export
        return export(model, directory, request, report)

    def open(self, directory: Path, artifact: Artifact, engine: str) -> Session:
        with needed_for("running a Core ML bundle"):
            from edgeqkv.backends.coreml.session import CoreMLSession
        return CoreMLSession(directory, artifact, engine)


BACKEND = CoreMLBackend()
