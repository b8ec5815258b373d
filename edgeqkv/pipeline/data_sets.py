"""A calibration text out of Hugging Face's ``datasets``: as much of a data set as is looked at, written to a file.

What is streamed cannot be looked at anywhere, as `edgeqkv.pipeline.corpus` does it. What has been written of it can.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from edgeqkv.disk.workplace import scratch
from edgeqkv.errors import InputError
from edgeqkv.reading import parsed

__all__ = ["is_data_set", "text_file"]

_PREFIX: Final = "dataset:"
_COLUMN: Final = "text"
_SPLIT: Final = "train"
_BETWEEN: Final = "\n\n"
_BYTES_A_TOKEN: Final = 6  # more than most texts have
_LEAST: Final = 1 << 22


def is_data_set(path: Path) -> bool:
    """Whether a text is said to be a data set, and not a file."""
    return str(path).startswith(_PREFIX)


@contextmanager
def text_file(path: Path, tokens: int) -> Iterator[Path]:
    """The file itself; of ``dataset:NAME``, for a while, one with the first texts of its training split.

    Args:
        path: the file, or ``dataset:`` and what ``datasets.load_dataset`` takes, a name on the hub or a folder; a
            configuration's name may follow after ``#``.
        tokens: how many are looked at. There will be about as many, if the data set has them.

    Raises:
        InputError: datasets is not installed, or cannot read it; or it has no texts.
    """
    if not is_data_set(path):
        yield path
        return
    name, _, configuration = str(path).removeprefix(_PREFIX).partition("#")
    with scratch() as folder:
        file = folder / "text.txt"
        with parsed(f"cannot read the data set {name}"), file.open("w", encoding="utf-8") as text:
            room = max(_LEAST, tokens * _BYTES_A_TOKEN)
            for each in _texts(name, configuration or None):
                text.write(each + _BETWEEN)
                room -= len(each.encode())
                if room <= 0:
                    break
        yield file


def _texts(name: str, configuration: str | None) -> Iterator[str]:
    try:
        import datasets
    except ModuleNotFoundError as error:
        raise InputError(
            "a calibration text out of a data set needs the package 'datasets'; add it with: pip install datasets, "
            "or give a text file"
        ) from error
    rows: Any = datasets.load_dataset(name, configuration, split=_SPLIT, streaming=True)
    for row in rows:
        if not isinstance(row.get(_COLUMN), str):
            raise InputError(f"the data set {name} has no column '{_COLUMN}' of texts; it has {', '.join(row)}")
        yield row[_COLUMN]
