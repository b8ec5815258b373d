"""Models of the Hugging Face library `transformers`: a directory with ``config.json`` and safetensors.

Each family is a table of names and differences (`edgeqkv.checkpoints.huggingface.families`) over one skeleton
(`edgeqkv.checkpoints.huggingface.reader`). Layers whose keys and values are the same numbers are merged.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgeqkv.checkpoints.archive import Archive
from edgeqkv.checkpoints.huggingface.config import family_of, read_config
from edgeqkv.checkpoints.huggingface.quiet import quiet
from edgeqkv.checkpoints.huggingface.reader import FORMAT, Reader
from edgeqkv.checkpoints.huggingface.tasks import original_class
from edgeqkv.errors import CheckpointError
from edgeqkv.model.model import Model

if TYPE_CHECKING:
    from edgeqkv.model.model import Source

__all__ = ["FORMAT", "matches", "original", "quiet", "read"]


def matches(archive: Archive) -> bool:
    """Whether the archive is a model directory."""
    return "config.json" in archive.contents


def read(archive: Archive, heads: int | None = None) -> Model:
    """Read the model. ``heads`` is for files that do not tell; this one does.

    Raises:
        CheckpointError: its family or something in its config is unknown, or a tensor is missing or misshapen.
        MissingExtra: transformers is not installed.
    """
    raw = archive.entry("config.json")
    family = family_of(raw, archive.path / "config.json")
    config = read_config(raw, family, archive.path)
    return Reader(archive.path, config, family, archive.entry("model_state_dict")).model()


def original(source: Source) -> Any:
    """The original class with the weights of a model that was read from this source, in float32.

    Raises:
        CheckpointError: transformers cannot read it.
        MissingExtra: transformers is not installed.
    """
    with quiet("running the original implementation"):
        import torch

        model_class = original_class(source.model_class)
        try:
            model = model_class.from_pretrained(source.path, dtype=torch.float32, local_files_only=True)
        except Exception as error:  # of its own, of safetensors' and of torch's
            reason = " ".join(str(error).split())
            raise CheckpointError(f"transformers cannot read {source.path}: {reason}") from error
    return model.eval()
