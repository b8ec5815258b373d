"""Names of models on the Hugging Face hub: where their files are on this machine, fetched if need be."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from edgeqkv.errors import CheckpointError
from edgeqkv.extras import needed_for

__all__ = ["is_name", "resolved"]

_NAME: Final = re.compile(r"[\w.-]+/[\w.-]+")
_FILES: Final = frozenset({".bin", ".ckpt", ".gguf", ".json", ".onnx", ".pt", ".pth", ".safetensors", ".zip"})

_WANTED: Final = ("*.safetensors", "*.safetensors.index.json", "*.json", "*.jinja", "tokenizer.model")


def is_name(path: Path) -> bool:
    """Whether something is ``org/name`` and cannot be meant as a path: there is no such folder, and it is no file's."""
    name = path.as_posix()
    return (
        _NAME.fullmatch(name) is not None
        and not path.exists()
        and not path.parent.exists()
        and path.suffix not in _FILES
    )


def resolved(name: str) -> Path:
    """The folder with a hub model's config, weights and tokenizer: the hub's own cache, or fetched into it.

    Raises:
        CheckpointError: it is not in the cache, and the hub cannot be reached or does not have it.
        MissingExtra: huggingface_hub is not installed.
    """
    with needed_for(f"looking up '{name}', which is no file or folder here, on the Hugging Face hub"):
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import LocalEntryNotFoundError
    try:
        cached = Path(snapshot_download(name, local_files_only=True))
    except (LocalEntryNotFoundError, OSError, ValueError):
        cached = None
    if cached is not None and (cached / "config.json").exists() and any(cached.glob("*.safetensors")):
        return cached
    try:
        return Path(snapshot_download(name, allow_patterns=list(_WANTED)))
    except Exception as error:  # of whatever the connection is made with
        reason = " ".join(str(error).split()).partition(". ")[0]
        raise CheckpointError(
            f"there is no file or folder {name}, and as a model of the Hugging Face hub it is not in this machine's "
            f"cache and cannot be fetched ({type(error).__name__}: {reason}). Download it where there is a network "
            f"(hf download {name}) and give its folder"
        ) from error
