"""Files whose bytes are not what was saved, and what torch takes on trust about them."""

from __future__ import annotations

import pickle
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY, read_encoder_golden

import edgeqkv
from edgeqkv import CheckpointError
from edgeqkv.checkpoints.synthetic import write_random_checkpoint
from edgeqkv.model import storage

Change = Callable[[str, bytes], bytes]


def rezipped(source: Path, out: Path, change: Change, **options: int) -> Path:
    """The same archive with its records changed, and checksums of what they are now."""
    with zipfile.ZipFile(source) as whole, zipfile.ZipFile(out, "w", **options) as other:
        for name in whole.namelist():
            other.writestr(name, change(name, whole.read(name)))
    return out


def flipped(source: Path, out: Path, record: str, at: int = 40) -> Path:
    """The same file with one bit of a record flipped."""
    content = bytearray(source.read_bytes())
    with zipfile.ZipFile(source) as whole:
        name = next(name for name in whole.namelist() if name.endswith(record))
        start = content.find(whole.read(name))
    content[start + at] ^= 1
    out.write_bytes(content)
    return out


@contextmanager
def without_checksums() -> Iterator[None]:
    torch.serialization.set_crc32_options(False)
    try:
        yield
    finally:
        torch.serialization.set_crc32_options(True)


def test_a_flipped_bit_is_found_before_an_export(tiny_checkpoint: Path, tmp_path: Path) -> None:
    model = edgeqkv.load(flipped(tiny_checkpoint, tmp_path / "model.pt", "/data/2"))
    with pytest.raises(CheckpointError, match=r"'.*' in model\.pt is damaged: its checksum"):
        model.check_finite()
    with pytest.raises(CheckpointError, match="is damaged"):  # and still is
        model.check_finite()
    edgeqkv.load(tiny_checkpoint).check_finite()


def test_a_flipped_bit_of_an_encoder_is_found_while_it_is_read(tmp_path: Path) -> None:
    """Its reader computes with the numbers."""
    path = flipped(read_encoder_golden("encoder_reverse_qvv3").path, tmp_path / "model.pt", "/data/0")
    with pytest.raises(CheckpointError, match="is damaged: its checksum"):
        edgeqkv.load(path)


def test_a_flipped_bit_of_the_pickle_is_found(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """One could make another number of heads of it."""
    with pytest.raises(CheckpointError, match=r"is damaged: Bad CRC-32 for file '.*data\.pkl'"):
        edgeqkv.load(flipped(tiny_checkpoint, tmp_path / "model.pt", "data.pkl"))


def test_a_checksum_is_looked_at_once(tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = edgeqkv.load(tiny_checkpoint)
    model.check_finite()
    monkeypatch.setattr(storage.zlib, "crc32", None)
    model.check_finite()


def test_checksums_that_were_not_written_are_not_missed(tmp_path: Path) -> None:
    with without_checksums():
        path = write_random_checkpoint(tmp_path / "model.pt", "q-k=v", **TINY)
    edgeqkv.load(path).check_finite()


@pytest.mark.parametrize("count", [-4, 4])
def test_a_record_of_another_size_than_its_storage(count: int, tiny_checkpoint: Path, tmp_path: Path) -> None:
    """Torch would fill it with what comes after it in the file."""

    def change(name: str, content: bytes) -> bytes:
        if not name.endswith("/data/0"):
            return content
        return content[:count] if count < 0 else content + bytes(count)

    with pytest.raises(CheckpointError, match=r"is damaged: a tensor is to have \d+ bytes, and no record"):
        edgeqkv.load(rezipped(tiny_checkpoint, tmp_path / "model.pt", change))


def test_a_compressed_archive_is_no_mapped_one(tiny_checkpoint: Path, tmp_path: Path) -> None:
    path = rezipped(
        tiny_checkpoint, tmp_path / "model.pt", lambda name, content: content, compression=zipfile.ZIP_DEFLATED
    )
    with pytest.raises(CheckpointError, match=r"was compressed, so it cannot be mapped.*save it anew"):
        edgeqkv.load(path)


def test_another_machines_order_is_read_and_its_checksums_too(tiny_checkpoint: Path, tmp_path: Path) -> None:
    other = "big" if sys.byteorder == "little" else "little"

    def swap(name: str, content: bytes) -> bytes:
        if "/data/" in name:
            return np.frombuffer(content, np.uint32).byteswap().tobytes()
        return other.encode() if name.endswith("/byteorder") else content

    swapped = rezipped(tiny_checkpoint, tmp_path / "swapped.pt", swap)
    ours, theirs = edgeqkv.load(tiny_checkpoint), edgeqkv.load(swapped)
    theirs.check_finite()
    for mine, weight in zip(ours.weights, theirs.weights, strict=True):
        assert torch.equal(mine.tensor, weight.tensor)
    with pytest.raises(CheckpointError, match="Bad CRC-32"):
        edgeqkv.load(flipped(swapped, tmp_path / "flipped.pt", "/data/2"))


def test_zips_that_are_no_checkpoints(tmp_path: Path) -> None:
    np.savez(tmp_path / "arrays.npz", a=np.ones(3))
    with pytest.raises(CheckpointError, match=r"is a zip file, but no torch checkpoint: it holds a\.npy"):
        edgeqkv.load(tmp_path / "arrays.npz")
    with zipfile.ZipFile(tmp_path / "script.pt", "w") as script:
        script.writestr("model/data.pkl", b"")
        script.writestr("model/constants.pkl", b"")
    with pytest.raises(CheckpointError, match="is a TorchScript program"):
        edgeqkv.load(tmp_path / "script.pt")


@pytest.mark.parametrize(
    "pickled",
    [
        b"",
        b"\x80\x02",
        b"\x80\x02}q\x00",
        b"\x80\x02cposix\nsystem\n",
        b"\x80\x02}.",
        b"\x80\x02(K\x01K\x02u.",
        b"\xff",
    ],
)
def test_whatever_the_unpickler_raises_is_about_the_file(pickled: bytes, tiny_checkpoint: Path, tmp_path: Path) -> None:
    path = rezipped(
        tiny_checkpoint,
        tmp_path / "model.pt",
        lambda name, content: pickled if name.endswith("data.pkl") else content,
    )
    with pytest.raises(CheckpointError, match=r"model\.pt"):
        edgeqkv.load(path)


def test_what_torch_has_to_say_of_a_file_is_not_the_users_affair(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """It warns of pickles that are newer than its own; warnings are errors here."""

    def change(name: str, content: bytes) -> bytes:
        return pickle.dumps({}, protocol=4) if name.endswith("data.pkl") else content

    with pytest.raises(CheckpointError) as error:
        edgeqkv.load(rezipped(tiny_checkpoint, tmp_path / "model.pt", change))
    assert "Detected pickle protocol" not in str(error.value)
