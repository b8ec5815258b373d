"""Reading numpy's files, which may be anybody's: no pickles, and no more memory than the file is large."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from edgeqkv.errors import EdgeQKVError, InputError
from edgeqkv.reading import check_file, parsed

__all__ = ["read_array", "read_arrays"]

# Numbers that somebody computed are hardly compressed to a half; what becomes far larger was made to fill the memory.
_SMALL: Final = 64 << 20
_MOST_PACKED: Final = 20


def read_array(path: Path) -> npt.NDArray[Any]:
    """The array of an ``.npy`` file, mapped: a shape that the file is too small for takes no memory.

    Raises:
        InputError: it cannot be read, is no ``.npy`` file, or holds objects.
    """
    check_file(path, InputError, ".npy file")
    # A shape whose bytes no integer counts is to be an error, not a warning.
    with parsed(f"{path} cannot be read as an .npy file", "Write it with numpy.save"), np.errstate(over="raise"):
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    if not isinstance(array, np.ndarray):
        raise InputError(f"{path} holds several arrays; write the one that is meant with numpy.save")
    return array


def read_arrays(path: Path, what: str, error: type[EdgeQKVError] = InputError) -> dict[str, npt.NDArray[Any]]:
    """The arrays of an ``.npz`` file by name.

    Args:
        path: the file.
        what: what it is, for people.
        error: what is raised.

    Raises:
        EdgeQKVError: it cannot be read, holds objects, or is far larger than its file.
    """
    with parsed(f"the {what} {path} cannot be read", error=error):
        size = check_file(path, error, what)
        with path.open("rb") as stream:  # which NumPy leaves open where it cannot read it
            with zipfile.ZipFile(stream) as archive:
                unpacked = sum(each.file_size for each in archive.infolist())
            if unpacked > _SMALL + _MOST_PACKED * size:
                raise ValueError(f"its {size:,} bytes would become {unpacked:,}")
            stream.seek(0)
            with np.load(stream, allow_pickle=False) as file:
                return {name: file[name] for name in file.files}
