"""From a file on disk to a `Model`, in two steps: a container maps the file, an architecture understands its tensors.

Each is one module with ``matches`` and ``read``, and one line here.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Final, Protocol

from edgeqkv.checkpoints import foreign, hub, huggingface
from edgeqkv.checkpoints.architectures import encoder, imagenet, language_model
from edgeqkv.checkpoints.archive import Archive
from edgeqkv.checkpoints.containers import model_directory, safetensors, torch_zip
from edgeqkv.errors import CheckpointError, InputError
from edgeqkv.model.model import Model

__all__ = ["CONTAINERS", "FORMATS", "Container", "Format", "load", "open_archive"]


class Container(Protocol):
    """What a module of `edgeqkv.checkpoints.containers` offers."""

    def matches(self, path: Path) -> bool: ...
    def read(self, path: Path) -> Archive: ...


class Format(Protocol):
    """What a module of `edgeqkv.checkpoints.architectures` offers."""

    def matches(self, archive: Archive) -> bool: ...
    def read(self, archive: Archive, heads: int | None) -> Model: ...


CONTAINERS: Final[tuple[Container, ...]] = (model_directory, safetensors, torch_zip)
"""The first that matches reads the file; the last takes any."""

FORMATS: tuple[Format, ...] = (huggingface, language_model, encoder, imagenet)
"""The first that matches what the file holds makes the model of it."""


def load(path: str | Path, *, heads: int | None = None, ema: bool = False) -> Model:
    """Read a model: ``.pt`` as the authors' training scripts save it, safetensors with its config, or a Hugging Face
    model's directory.

    The file is mapped into memory, not read: optimizer state and masks never enter memory. Nothing in the file
    is executed.

    Args:
        path: the file; of a Hugging Face model the directory, or ``org/name``, which is looked up in the hub's cache
            and fetched if it is not there.
        heads: how many attention heads the model has, for files that do not say.
        ema: take the weights that were averaged over the steps (``ema_state_dict``), not those of the last one.

    Raises:
        CheckpointError: the file is missing, damaged, unsafe, of no known format, or contradicts itself.
        InputError: the file says how many heads there are, and it is another number; or it holds no averaged weights.
        MissingExtra: the file needs a package that is not installed.
    """
    archive = open_archive(Path(path)).with_weights(averaged=ema)
    for format_ in FORMATS:
        if format_.matches(archive):
            model = format_.read(archive, heads)
            if heads not in (None, model.config.heads):
                raise InputError(f"{archive.path} says that it has {model.config.heads} heads, not {heads}")
            return replace(model, notes=(*archive.notes, *model.notes))
    raise CheckpointError(foreign.described(archive.path, archive.contents))


def open_archive(path: Path) -> Archive:
    """Map a file, whatever its container.

    Raises:
        CheckpointError: it is missing, damaged, or unsafe.
    """
    if hub.is_name(path):
        path = hub.resolved(path.as_posix())
    try:
        if not model_directory.matches(path):
            foreign.refuse_path(path)
        container = next(container for container in CONTAINERS if container.matches(path))
        return container.read(path)
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from error
