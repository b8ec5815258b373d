"""Packages for the tests of this folder: of the small checkpoints and others, each written once."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

import edgeqkv
from edgeqkv.backends.coreml import TARGET
from edgeqkv.backends.target import TargetSpec
from edgeqkv.bundle.manifest import Artifact
from edgeqkv.model.model import Model
from edgeqkv.progress import silent
from edgeqkv.reference.outputs import sequence_logits
from edgeqkv.run.session import Session, open_artifact

__all__ = ["CHUNK", "CONTEXT", "DATA", "Exported", "export"]

DATA = Path(__file__).parents[1] / "data" / "checkpoints"
CONTEXT, CHUNK = 64, 16

# The tensors are tiny: several threads would only wait for each other, the longer the busier the machine.
torch.set_num_threads(1)


@dataclass(frozen=True)
class Exported:
    """A package on disk, the model that it was made from, and what it must compute."""

    model: Model
    directory: Path
    artifact: Artifact

    @property
    def package(self) -> Path:
        return self.directory / "model.mlpackage"

    @property
    def weight_file(self) -> Path:
        return self.package / "Data/com.apple.CoreML/weights/weight.bin"

    def session(self) -> Session:
        return open_artifact(self.directory, self.artifact, "evaluator")

    def copy(self, directory: Path) -> Exported:
        """The same package elsewhere, to be changed."""
        shutil.copytree(self.directory, directory)
        return Exported(self.model, directory, self.artifact)

    @cached_property
    def tokens(self) -> npt.NDArray[np.int64]:
        return np.random.default_rng(0).integers(0, self.artifact.vocab_size, self.artifact.context)

    @cached_property
    def reference(self) -> npt.NDArray[np.float32]:
        """``[context, vocab]``: the whole sequence at once, without a state, from the weights as stored."""
        return sequence_logits(self.model, self.tokens)


@cache
def export(source: str | Path, form: str = "linear", *, chunk: int = CHUNK, context: int = CONTEXT) -> Exported:
    """The package of a checkpoint in tests/data, or of one at a path; the same one at every call."""
    path = source if isinstance(source, Path) else DATA / f"{source}.pt"
    model = edgeqkv.load(path).with_context(context).with_weights("fp16")
    directory = Path(tempfile.mkdtemp(prefix=f"{path.stem}-{form}-"))
    atexit.register(shutil.rmtree, directory)
    spec = TargetSpec(form=form, weights="fp16", state="fp16", context=context, chunk=chunk)
    return Exported(model, directory, TARGET.export(model, directory, spec, silent))
