"""Opening a checkpoint file safely: mapped into memory, and without running anything that is in it."""

from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy._core import multiarray

from edgeqkv.errors import CheckpointError

__all__ = ["Archive", "open_archive"]

# Metrics are often saved as numpy scalars. These build numbers and nothing else.
_SAFE_NUMPY: Final[list[Any]] = [
    np.dtype,
    multiarray.scalar,
    *(type(np.dtype(code)) for code in ("f2", "f4", "f8", "i4", "i8", "?")),
]


@dataclass(frozen=True)
class Archive:
    """A checkpoint's top-level dict. Its tensors are views into the mapped file."""

    path: Path
    contents: Mapping[str, Any]


def open_archive(path: Path) -> Archive:
    """Map a ``.pt`` (zip) or ``.safetensors`` file.

    A safetensors file holds tensors alone, so the model's config is read from ``config.json`` (or
    ``NAME.json``) beside it; the result has the same keys as a ``.pt``.

    Raises:
        CheckpointError: it is missing, empty, truncated, not a checkpoint, or would run code when unpickled.
    """
    if not path.exists():
        raise CheckpointError(f"there is no file {path}")
    if path.is_dir():
        raise CheckpointError(f"{path} is a folder; give the checkpoint file in it (model.pt, model.safetensors)")
    try:
        if path.suffix == ".safetensors":
            return Archive(path, _open_safetensors(path))
        _check_is_torch_zip(path)
        return Archive(path, _open_torch(path))
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from error


def _check_is_torch_zip(path: Path) -> None:
    with path.open("rb") as file:
        magic = file.read(4)
    if not magic:
        raise CheckpointError(f"{path} is empty")
    if magic[:2] == b"\x80\x02":
        raise CheckpointError(
            f"{path} is in torch's format from before 1.6, which cannot be mapped. Save it anew where you trust it: "
            f"torch.save(torch.load(file, weights_only=True), file)"
        )
    if magic != b"PK\x03\x04":
        raise CheckpointError(f"{path} is not a torch checkpoint: it starts with {magic!r}, not with a zip header")
    if not zipfile.is_zipfile(path):
        raise CheckpointError(f"{path} is truncated: its table of contents is missing. Copy or download it again")


def _open_torch(path: Path) -> Mapping[str, Any]:
    try:
        with torch.serialization.safe_globals(_SAFE_NUMPY):
            contents = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except pickle.UnpicklingError as error:
        names = ", ".join(_foreign_names(path)) or "code"
        raise CheckpointError(
            f"{path} was refused, and nothing in it was run: besides tensors and plain values it holds {names}, which "
            f"unpickling would execute. Save it with tensors, numbers, strings, lists and dicts only"
        ) from error
    except (RuntimeError, EOFError, KeyError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged: {str(error).splitlines()[0]}") from error
    if not isinstance(contents, dict):
        raise CheckpointError(f"{path} holds a {type(contents).__name__}, not the dict that a training script saves")
    return {str(key): value for key, value in contents.items()}


def _foreign_names(path: Path) -> list[str]:
    try:
        return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except Exception:  # only to make a message better; the file was refused already
        return []


def _open_safetensors(path: Path) -> Mapping[str, Any]:
    from safetensors import SafetensorError, safe_open

    configs = [path.with_name("config.json"), path.with_suffix(".json")]
    config_path = next((candidate for candidate in configs if candidate.exists()), None)
    if config_path is None:
        raise CheckpointError(
            f"{path} holds tensors alone, and its config is missing: put the training script's model_config beside it "
            f"as {configs[0].name} or {configs[1].name}"
        )
    try:
        config = json.loads(config_path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{config_path} is not JSON: {error}") from error
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except SafetensorError as error:
        raise CheckpointError(f"{path} is not a safetensors file or is damaged: {error}") from error
    if isinstance(config, dict) and "model_config" in config:
        config = config["model_config"]
    return {"model_state_dict": tensors, "model_config": config}
