"""From a file on disk to a `Model`: one module a format, each with ``matches`` and ``read``.

A new format is one new module and one line in `FORMATS`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from edgeqkv.checkpoints import language_model
from edgeqkv.checkpoints.archive import Archive, open_archive
from edgeqkv.errors import CheckpointError
from edgeqkv.model import Model

__all__ = ["FORMATS", "load"]


class Format(Protocol):
    """What a module of this package offers."""

    def matches(self, archive: Archive) -> bool: ...
    def read(self, archive: Archive) -> Model: ...


FORMATS: tuple[Format, ...] = (language_model,)


def load(path: str | Path) -> Model:
    """Read a checkpoint: ``.pt`` as the authors' training scripts save it, or safetensors with its config.

    The file is mapped into memory, not read: optimizer state and masks never enter memory. Nothing in the file
    is executed.

    Raises:
        CheckpointError: the file is missing, damaged, unsafe, of no known format, or contradicts itself.
    """
    archive = open_archive(Path(path))
    for format_ in FORMATS:
        if format_.matches(archive):
            return format_.read(archive)
    found = ", ".join(sorted(archive.contents)[:8]) or "nothing"
    raise CheckpointError(
        f"{archive.path} is no model that edgeqkv knows: it holds {found}. Expected is the dict that the training "
        f"scripts save, with 'model_state_dict' and 'model_config'"
    )
