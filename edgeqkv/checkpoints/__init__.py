"""From a file on disk to a `Model`: one module a format, each with ``matches`` and ``read``.

A new format is one new module and one line in `FORMATS`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from edgeqkv.checkpoints import encoder, imagenet, language_model
from edgeqkv.checkpoints.archive import Archive, open_archive
from edgeqkv.errors import CheckpointError, InputError
from edgeqkv.model.model import AnyModel

__all__ = ["FORMATS", "load"]


class Format(Protocol):
    """What a module of this package offers."""

    def matches(self, archive: Archive) -> bool: ...
    def read(self, archive: Archive, heads: int | None) -> AnyModel: ...


FORMATS: tuple[Format, ...] = (language_model, encoder, imagenet)


def load(path: str | Path, *, heads: int | None = None) -> AnyModel:
    """Read a checkpoint: ``.pt`` as the authors' training scripts save it, or safetensors with its config.

    The file is mapped into memory, not read: optimizer state and masks never enter memory. Nothing in the file
    is executed.

    Args:
        path: the file.
        heads: how many attention heads the model has, for files that do not say.

    Raises:
        CheckpointError: the file is missing, damaged, unsafe, of no known format, or contradicts itself.
        InputError: the file says how many heads there are, and it is another number.
    """
    archive = open_archive(Path(path))
    for format_ in FORMATS:
        if format_.matches(archive):
            model = format_.read(archive, heads)
            if heads not in (None, model.config.heads):
                raise InputError(f"{archive.path} says that it has {model.config.heads} heads, not {heads}")
            return model
    found = ", ".join(sorted(archive.contents)[:8]) or "nothing"
    raise CheckpointError(
        f"{archive.path} is no model that edgeqkv knows: it holds {found}. Expected is a dict that the training "
        f"scripts save: 'model_state_dict' with 'model_config' (language models), with 'model' and 'config' "
        f"(encoders), or with the tensors of a vision transformer"
    )
