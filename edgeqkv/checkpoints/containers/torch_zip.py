"""Torch's own format since 1.6, a zip file: mapped into memory, and without running anything that is in it."""

from __future__ import annotations

import os
import pickle
import re
import struct
import sys
import warnings
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from edgeqkv.checkpoints import foreign
from edgeqkv.checkpoints.archive import Archive
from edgeqkv.errors import CheckpointError
from edgeqkv.model import storage
from edgeqkv.reading import reading, shortened, shown

__all__ = ["matches", "read"]

_BYTES_AT_ONCE: Final = 1 << 24

_READ_BY_TORCH: Final = frozenset({"data.pkl", "byteorder", ".format_version", ".storage_alignment"})

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
        CheckpointError: it is empty, truncated, damaged, no checkpoint, or would run code when unpickled.
    """
    _check_is_torch_zip(path)
    with reading(path, "a zip file"):
        file = zipfile.ZipFile(path)
    with file:
        records = {record.filename.partition("/")[2]: record for record in file.infolist()}
        _check_records(path, file, records)
        swapped = _byte_order(path, records.get("byteorder")) != sys.byteorder
        # Torch swaps what it mapped, so that no checksum could be compared later.
        _check_checksums(path, file, records.values() if swapped else _first_read(records))
    return Archive(path, _contents(path, None if swapped else _checksums(records)))


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
    with reading(path, "a zip file"):
        whole = zipfile.is_zipfile(path)
    if not whole:
        raise CheckpointError(f"{path} is truncated: its table of contents is missing. Copy or download it again")


def _check_records(path: Path, file: zipfile.ZipFile, records: Mapping[str, zipfile.ZipInfo]) -> None:
    """What torch takes on trust: that it is a checkpoint, that numbers lie in the file as they are, and its pickle."""
    if "constants.pkl" in records:
        raise CheckpointError(
            f"{path} is a TorchScript program, not a checkpoint; save the state dict and config of the model that "
            f"it was made of, as the training script does"
        )
    if "data.pkl" not in records:
        some = ", ".join(sorted(file.namelist())[:4]) or "nothing"
        raise CheckpointError(f"{path} is a zip file, but no torch checkpoint: it holds {some}")
    if len(records) != len(file.infolist()):
        raise CheckpointError(f"{path} is damaged: it holds two records of one name")
    if any(record.compress_type != zipfile.ZIP_STORED for record in records.values()):
        raise CheckpointError(
            f"{path} was compressed, so it cannot be mapped. Unpack it and save it anew: "
            f"torch.save(torch.load(file, weights_only=True, mmap=False), file)"
        )


def _first_read(records: Mapping[str, zipfile.ZipInfo]) -> list[zipfile.ZipInfo]:
    """The records that torch reads before it knows of any tensor."""
    return [records[name] for name in sorted(_READ_BY_TORCH & records.keys())]


def _check_checksums(path: Path, file: zipfile.ZipFile, records: Iterable[zipfile.ZipInfo]) -> None:
    """Read records, at whose end zipfile compares their checksum; torch can be told to write 0 for all."""
    with reading(path, "a torch checkpoint"):
        for record in records:
            if record.CRC:
                with file.open(record) as opened:
                    while opened.read(_BYTES_AT_ONCE):
                        pass


def _checksums(records: Mapping[str, zipfile.ZipInfo]) -> dict[int, frozenset[int]]:
    """The checksums that storages may have, by how many bytes they are; none where they were not written."""
    found: dict[int, set[int]] = {}
    for name, record in records.items():
        if name.startswith("data/"):
            found.setdefault(record.file_size, set()).add(record.CRC)
    return {size: frozenset() if 0 in checksums else frozenset(checksums) for size, checksums in found.items()}


def _contents(path: Path, checksums: Mapping[int, frozenset[int]] | None) -> Mapping[str, Any]:
    """What was saved; ``checksums`` of its storages, None if torch changed them in memory."""
    try:
        with (
            reading(path, "a torch checkpoint"),
            torch.serialization.safe_globals(_SAFE_NUMPY),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")  # of what the file holds, in terms of torch's own future
            contents = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except CheckpointError as error:
        if isinstance(cause := error.__cause__, pickle.UnpicklingError):
            raise foreign.refused_pickle(path, _foreign_names(path), _reason(cause)) from error
        raise
    if not isinstance(contents, dict):
        raise CheckpointError(f"{path} holds {shown(contents)}, not the dict that a training script saves")
    tensors = list(_tensors(contents))
    if checksums is not None:
        if size := storage.expect(checksums, *tensors):
            raise CheckpointError(
                f"{path} is damaged: a tensor is to have {size} bytes, and no record of it has so many"
            )
        storage.register_mapped(*tensors)
    return {key if isinstance(key, str) else shown(key): value for key, value in contents.items()}


def _byte_order(path: Path, record: zipfile.ZipInfo | None) -> str:
    """Of the numbers in the file; torch takes what does not say it for little-endian.

    Read as it lies there, because zipfile would insist on a checksum that may not have been written.
    """
    if record is None:
        return "little"
    with reading(path, "a torch checkpoint"), path.open("rb") as file:
        file.seek(record.header_offset + 26)
        name, extra = struct.unpack("<HH", file.read(4))
        file.seek(name + extra, os.SEEK_CUR)
        return file.read(min(record.file_size, 8)).decode("ascii", "replace")


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


def _reason(error: pickle.UnpicklingError) -> str:
    """What torch found, out of the several lines of advice around it."""
    match = re.search(r"WeightsUnpickler error:\s*(.+)", str(error))
    return shortened(match[1] if match else str(error).strip().partition("\n")[0])


def _foreign_names(path: Path) -> list[str]:
    try:
        return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except Exception:  # only to make a message better; the file was refused already
        return []
