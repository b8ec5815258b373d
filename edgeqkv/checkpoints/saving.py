"""Tensors into a file, of which little is in memory meanwhile: what was written of a mapping is given back."""

from __future__ import annotations

import ctypes
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Final

import torch

from edgeqkv.model import storage
from edgeqkv.model.weights import Weight, some_rows

__all__ = ["Parts", "save_safetensors", "save_torch"]

Parts = Mapping[str, Sequence[Weight]]
"""Tensors by name, each as the weights whose rows stand in it one under the other."""

_BYTES_AT_ONCE: Final = 1 << 26

_SAFETENSORS_TYPES: Final = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
}


def save_safetensors(parts: Parts, path: Path) -> None:
    """Write a safetensors file (the length of the header, the header, the numbers).

    Raises:
        OSError: the disk refuses.
    """
    # Wide types first, so that every tensor begins at a multiple of its numbers' size.
    ordered = dict(sorted(parts.items(), key=lambda item: -_type(item[1]).itemsize))
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    stop = 0
    for name, weights in ordered.items():
        start, stop = stop, stop + sum(weight.tensor.numel() for weight in weights) * _type(weights).itemsize
        header[name] = {
            "dtype": _SAFETENSORS_TYPES[_type(weights)],
            "shape": _shape(weights),
            "data_offsets": [start, stop],
        }
    told = json.dumps(header).encode()
    told += b" " * (-len(told) % 8)
    with path.open("wb") as file:
        file.write(len(told).to_bytes(8, "little") + told)
        for weights in ordered.values():
            for piece in _pieces(weights):
                file.write(piece.view(torch.uint8).numpy().data)


def save_torch(parts: Parts, path: Path, *, key: str, others: Mapping[str, Any]) -> None:
    """Write what `torch.save` would of a dict of ``others`` and, under ``key``, of the tensors.

    Raises:
        OSError: the disk refuses.
    """
    with path.open("wb") as file:
        writer = _Writer(file, [weight for weights in parts.values() for weight in weights])
        try:
            tensors = {name: _whole(weights) for name, weights in parts.items()}
            torch.save({**others, key: tensors}, writer)  # type: ignore[arg-type]  # it needs `write` alone
        except (RuntimeError, OSError) as error:  # torch says only that it failed
            raise writer.failed or error from None


class _Writer:
    """A file that gives back the memory of mapped weights while it is written to."""

    def __init__(self, file: BinaryIO, weights: Sequence[Weight]) -> None:
        self._file, self._weights, self._since = file, weights, 0
        self.failed: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            written = self._file.write(data)
        except OSError as error:
            self.failed = error
            raise
        self._since += written
        if self._since >= _BYTES_AT_ONCE:
            self._since = 0
            for weight in self._weights:
                weight.release_pages()
        return written

    def flush(self) -> None:
        self._file.flush()


def _type(weights: Sequence[Weight]) -> torch.dtype:
    return torch.promote_types(weights[0].tensor.dtype, weights[-1].tensor.dtype)


def _shape(weights: Sequence[Weight]) -> tuple[int, ...]:
    rows, *columns = weights[0].shape
    return (rows if len(weights) == 1 else sum(weight.shape[0] for weight in weights), *columns)


def _pieces(weights: Sequence[Weight]) -> Iterator[torch.Tensor]:
    """The numbers, some rows at a time."""
    kind = _type(weights)
    for weight in weights:
        tensor = weight.tensor
        for rows in some_rows(len(tensor), tensor[0].numel()):
            some = tensor[rows]
            yield some.to(kind).contiguous()
            storage.give_back(some)


def _whole(weights: Sequence[Weight]) -> torch.Tensor:
    """One tensor in memory of its own: of a view, torch would write all that it is a view of.

    Where the numbers lie one after the other, as those of a mapped file do, they are not copied; the weights have to
    outlive what is returned.
    """
    first, kind = weights[0].tensor, _type(weights)
    place, alone = first.data_ptr(), True
    for tensor in (weight.tensor for weight in weights):
        alone &= tensor.is_contiguous() and tensor.dtype == kind and tensor.data_ptr() == place
        place += tensor.nbytes
    if alone:
        memory = (ctypes.c_ubyte * (place - first.data_ptr())).from_address(first.data_ptr())
        return torch.frombuffer(memory, dtype=kind).view(_shape(weights))
    copy = torch.cat([weight.tensor.to(kind) for weight in weights])
    for weight in weights:
        weight.release_pages()
    return copy
