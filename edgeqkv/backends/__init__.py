"""The backends: each a folder that turns a `Model` into files and opens them again.

A new backend is one new folder, whose ``BACKEND`` fulfils `Backend`, and one line in `_REGISTRY`. A backend's
package module imports nothing heavy, so that what it offers can be listed where it is not installed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol, TypeVar, cast

from edgeqkv.bundle.manifest import Artifact, EncoderArtifact
from edgeqkv.errors import UnsupportedError
from edgeqkv.progress import Report
from edgeqkv.run.session import EncoderSession, Session

if TYPE_CHECKING:
    from edgeqkv.model.model import EncoderModel, Model, TrainedModel

__all__ = ["TARGETS", "Backend", "EncoderRequest", "Request", "backend"]

M = TypeVar("M", bound="TrainedModel")

_REGISTRY: Final = {
    "onnx": "edgeqkv.backends.onnx",
    "executorch": "edgeqkv.backends.executorch",
    "coreml": "edgeqkv.backends.coreml",
}

TARGETS: Final = tuple(_REGISTRY)
"""The names that ``--target`` takes."""


@dataclass(frozen=True)
class Request:
    """What an export is to be, every choice made.

    ``tokenizer``, a file that was given, and ``bos_id`` and ``eos_ids`` from it are for formats that carry them.
    """

    form: str
    weights: str
    state: str
    context: int
    chunk: int
    bos_id: int | None = None
    eos_ids: tuple[int, ...] = ()
    tokenizer: Path | None = None


@dataclass(frozen=True)
class EncoderRequest:
    """What an export of an encoder is to be, every choice made.

    ``image`` says that the input is to be an image as the target's system has them, where it has such a type; the
    graph then does what was done to a pixel before training.
    """

    form: str
    weights: str
    batch: int
    image: bool = False


class Backend(Protocol):
    """What a backend offers. Of several forms, weights or states, the first is the default.

    Attributes:
        name: the target's name.
        title: the format's name for people.
        packages: distributions that it needs, for ``edgeqkv doctor``.
        extra: the extra of edgeqkv that installs them.
        forms: name → what it is for.
        encoder_forms: the same for encoders.
        weights: precisions of stored weights.
        states: precisions of the stored state.
        takes_images: whether an encoder's input can be of a type of the target's own for images.
        engines: what can run it here; the first is the default.
        proof_engine: the one that computes what is stored and rounds no more than float32 does.
    """

    name: str
    title: str
    packages: tuple[str, ...]
    extra: str
    forms: Mapping[str, str]
    encoder_forms: Mapping[str, str]
    weights: tuple[str, ...]
    states: tuple[str, ...]
    takes_images: bool
    engines: tuple[str, ...]
    proof_engine: str

    def stores(self, model: M) -> M:
        """The model with the numbers that an export of it stores: the same one, unless the runtime cannot take them.

        Raises:
            UnsupportedError: there is nothing near them that it could take.
        """

    def export(self, model: Model, directory: Path, request: Request, report: Report) -> Artifact:
        """Write the model into ``directory`` and describe what was written.

        ``model`` has the context and the weights that the request asks for (`Model.with_context`,
        `edgeqkv.quantize.apply`, `Backend.stores`).
        """

    def open(self, directory: Path, artifact: Artifact, engine: str) -> Session:
        """A session on what `export` wrote."""

    def export_encoder(
        self, model: EncoderModel, directory: Path, request: EncoderRequest, report: Report
    ) -> EncoderArtifact:
        """Write an encoder into ``directory`` and describe what was written.

        ``model`` has the weights that the request asks for (`edgeqkv.quantize.apply_to_encoder`).
        """

    def open_encoder(self, directory: Path, artifact: EncoderArtifact, engine: str) -> EncoderSession:
        """A session on what `export_encoder` wrote."""


def backend(name: str) -> Backend:
    """The backend of that name.

    Raises:
        UnsupportedError: there is none.
    """
    if name not in _REGISTRY:
        raise UnsupportedError(f"unknown target '{name}'; edgeqkv exports to {', '.join(TARGETS)}")
    return cast("Backend", import_module(_REGISTRY[name]).BACKEND)
