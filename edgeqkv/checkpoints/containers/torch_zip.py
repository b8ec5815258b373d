"""Torch's own format since 1.6, a zip file: mapped into memory, and without running anything that is in it."""

from __future__ import annotations

import pickle
import sys
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from edgeqkv.checkpoints.archive import Archive
from edgeqkv.errors import CheckpointError
from edgeqkv.model import storage

__all__ = ["matches", "read"]

# Metrics are often saved as numpy scalars. These build numbers and nothing else.
_SAFE_NUMPY: Final[list[Any]] = [
    np.dtype,
    np.float64().__reduce__()[0],  # what makes one; numpy names it nowhere else
    *(type(np.dtype(code)) for code in ("f2", "f4", "f8", "i4", "i8", "?")),
]


def matches(path: Path) -> bool:
    """Whether the file is to be read as one of these, which is what any file is that is nothing else."""
    return True


def read(path: Path) -> Archive:
    """Map the file.

    Raises:
        CheckpointError: it is empty, truncated, no checkpoint, or would run code when unpickled.
    """
    _check_is_torch_zip(path)
    return Archive(path, _contents(path))


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


def _contents(path: Path) -> Mapping[str, Any]:
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
    if _is_this_machines(path):
        storage.register_mapped(*_tensors(contents))
    return {str(key): value for key, value in contents.items()}


def _is_this_machines(path: Path) -> bool:
    """Whether the numbers are used as they lie in the file; another machine's bytes torch swaps where they are."""
    try:
        with zipfile.ZipFile(path) as file:
            records = [name for name in file.namelist() if name.endswith("/byteorder")]
            return all(_start_of(file, name) == sys.byteorder for name in records)
    except (zipfile.BadZipFile, RuntimeError, EOFError, zlib.error):  # torch is content with less
        return False


def _start_of(file: zipfile.ZipFile, name: str) -> str:
    with file.open(name) as record:
        return record.read(8).decode("ascii", "replace")


def _tensors(contents: object) -> Iterator[torch.Tensor]:
    """Every tensor in nested dicts, lists and tuples, which may hold each other in circles."""
    left, seen = [contents], set[int]()
    while left:
        node = left.pop()
        if isinstance(node, torch.Tensor):
            yield node
        elif isinstance(node, dict | list | tuple) and id(node) not in seen:
            seen.add(id(node))
            left.extend(node.values() if isinstance(node, dict) else node)


def _foreign_names(path: Path) -> list[str]:
    try:
        return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except Exception:  # only to make a message better; the file was refused already
        return []
