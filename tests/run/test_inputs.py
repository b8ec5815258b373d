"""Arrays from files that may be anybody's."""

from __future__ import annotations

import io
import os
import warnings
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeqkv.arrays import read_array, read_arrays
from edgeqkv.errors import BundleError, InputError
from edgeqkv.pipeline.proof import load_proof
from edgeqkv.run.inputs import read_inputs

TOKENS = {"task": "reverse", "input": {"kind": "tokens"}}


def header(shape: str, dtype: str = "'<f4'") -> bytes:
    """The beginning of an ``.npy`` file, whatever it declares."""
    text = f"{{'descr': {dtype}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    text += b" " * (-(len(text) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no",
        header("(4,)"),
        header("(4,)") + b"1234",
        header("(99999999999999,)") + b"1234",
        header("(99999999999, 99999999999)"),
        header("(4611686018427387904, 4)"),
        header("(4611686018427387904, 4611686018427387904)"),
        header("(-1,)") + b"1234",
        header("(4,)", "'|O'") + b"cos\nsystem\n.",
        header("(4,)", "[('a', '|O')]") + b"1234" * 8,
        header("(4,)", "'<f3'"),
        header("(4,)", "__import__('os').system('true')"),
        header("(" * 5000 + ")" * 5000),
        header("(1" + "0" * 9000 + ",)"),
        header("'four'"),
    ],
)
def test_a_damaged_array_is_an_error_and_takes_no_memory(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "in.npy").write_bytes(content)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", RuntimeWarning)
        with pytest.raises(InputError, match=r"in\.npy cannot be read as an \.npy file: .*Write it with numpy\.save"):
            read_inputs(tmp_path / "in.npy", TOKENS)
    assert not told


def test_pickles_are_not_opened(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "was here"),)

    np.save(tmp_path / "in.npy", np.array([Bomb()], dtype=object), allow_pickle=True)
    np.savez(tmp_path / "in.npz", tokens=np.array([Bomb()], dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match="cannot be read"):
        read_array(tmp_path / "in.npy")
    with pytest.raises(BundleError, match=r"the proof .* cannot be read"):
        load_proof(tmp_path / "in.npz")
    assert not (tmp_path / "was here").exists()


def test_files_that_are_none(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.npy")
    np.savez(tmp_path / "two.npz", a=np.zeros(3))
    (tmp_path / "two.npz").rename(tmp_path / "two.npy")
    for name, message in (
        ("pipe.npy", "it is a pipe"),
        ("two.npy", "holds several arrays"),
        ("gone.npy", "there is no such file"),
        ("x" * 5000 + ".npy", "File name too long"),
    ):
        with pytest.raises(InputError, match=message):
            read_inputs(tmp_path / name, TOKENS)


def test_arrays_as_they_are(tmp_path: Path) -> None:
    given = np.arange(6).reshape(2, 3)
    np.save(tmp_path / "IN.NPY.npy", given)
    (tmp_path / "IN.NPY.npy").rename(tmp_path / "IN.NPY")
    assert np.array_equal(read_inputs(tmp_path / "IN.NPY", TOKENS), given)
    np.savez_compressed(tmp_path / "p.npz", a=given, b=np.zeros(100_000))
    read = read_arrays(tmp_path / "p.npz", "proof")
    assert np.array_equal(read["a"], given)
    assert read["b"].shape == (100_000,)


def test_an_archive_that_is_far_larger_than_its_file(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "p.npz", "w", zipfile.ZIP_DEFLATED) as archive, archive.open("a.npy", "w") as file:
        file.write(header("(50000000,)"))
        for _ in range(100):
            file.write(bytes(2_000_000))
    with pytest.raises(BundleError, match="bytes would become 200,000,"):
        load_proof(tmp_path / "p.npz")


def test_no_damaged_archive_ends_in_a_foreign_error(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    whole = io.BytesIO()
    np.savez_compressed(whole, inputs=np.zeros((2, 3), np.int8), outputs=np.ones((2, 3), np.float32))
    for _ in range(200):
        damaged = bytearray(whole.getvalue())
        for _ in range(random.integers(1, 6)):
            damaged[random.integers(len(damaged))] = random.integers(256)
        (tmp_path / "p.npz").write_bytes(damaged[: random.integers(1, len(damaged) + 1)])
        with suppress(BundleError):
            load_proof(tmp_path / "p.npz")
    (tmp_path / "p.npz").write_bytes(whole.getvalue())
    load_proof(tmp_path / "p.npz")
    np.savez(tmp_path / "p.npz", tokens=np.zeros(3))
    with pytest.raises(BundleError, match="it holds no lengths, columns, logits, argmax"):
        load_proof(tmp_path / "p.npz")
