from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

import edgeqkv
from edgeqkv import CheckpointError
from edgeqkv.checkpoints.synthetic import write_random_checkpoint


class RunsCode:
    """Unpickling this would create a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


def test_a_pickle_that_would_run_code_is_refused_and_runs_nothing(tmp_path: Path) -> None:
    torch.save({"model_state_dict": {}, "model_config": RunsCode(tmp_path / "ran")}, tmp_path / "hostile.pt")
    with pytest.raises(CheckpointError, match=r"refused, and nothing in it was run.*mkdir"):
        edgeqkv.load(tmp_path / "hostile.pt")
    assert not (tmp_path / "ran").exists()


def test_files_that_are_no_checkpoints(tmp_path: Path, tiny_checkpoint: Path) -> None:
    whole = tiny_checkpoint.read_bytes()
    cases = {
        "empty.pt": (b"", "is empty"),
        "text.pt": (b"hello, world", r"not a torch checkpoint: it starts with b'hell'"),
        "truncated.pt": (whole[: len(whole) // 2], "is truncated"),
        "other.pt": (b"PK\x03\x04" + b"\0" * 100, "is truncated"),
        "broken.safetensors": (b"\xff" * 64, "config is missing"),
    }
    for name, (content, message) in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(CheckpointError, match=message):
            edgeqkv.load(tmp_path / name)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        edgeqkv.load(tmp_path / "broken.safetensors")
    with pytest.raises(CheckpointError, match="there is no file"):
        edgeqkv.load(tmp_path / "missing.pt")
    with pytest.raises(CheckpointError, match="is a folder"):
        edgeqkv.load(tmp_path)


def test_a_file_whose_middle_was_lost_is_damaged(tmp_path: Path, tiny_checkpoint: Path) -> None:
    content = bytearray(tiny_checkpoint.read_bytes())
    start = content.find(b"data.pkl") + 64
    content[start : start + 200] = b"\0" * 200
    (tmp_path / "damaged.pt").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"damaged|refused"):
        edgeqkv.load(tmp_path / "damaged.pt")


def test_the_old_format_is_explained(tmp_path: Path) -> None:
    torch.save({"model_state_dict": {}}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    with pytest.raises(CheckpointError, match=r"before 1\.6.*Save it anew"):
        edgeqkv.load(tmp_path / "old.pt")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_optimizer_state_and_masks_never_enter_memory(tmp_path: Path) -> None:
    """Exporting a checkpoint whose weights are a small part of it must not read the rest."""
    sizes = {"n_layer": 1, "n_embd": 256, "n_head": 4, "n_positions": 64, "vocab_size": 512}
    path = write_random_checkpoint(tmp_path / "model.pt", "q-k=v", **sizes)
    contents = torch.load(path, weights_only=True)
    contents["optimizer_state_dict"] = {"state": {0: torch.ones(96 << 18)}}
    contents["model_state_dict"]["h.0.attn.bias"] = torch.ones(1, 1, 6144, 4096)
    torch.save(contents, path)
    del contents
    measure = f"""
import resource, edgeqkv
edgeqkv.load({str(Path(__file__).parents[1] / "data/checkpoints/qkv.pt")!r}).check_finite()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
edgeqkv.load({str(tmp_path / "model.pt")!r}).check_finite()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    done = subprocess.run([sys.executable, "-c", measure], check=True, capture_output=True, text=True)
    assert (tmp_path / "model.pt").stat().st_size > 190 << 20
    assert int(done.stdout) * 1024 < 16 << 20, "96 MiB of optimizer state or of a mask were read"


def test_a_tensor_larger_than_what_is_stored_is_refused(tmp_path: Path) -> None:
    torch.save({"model_state_dict": {"wte.weight": torch.ones(777)}, "model_config": {}}, tmp_path / "model.pt")
    with zipfile.ZipFile(tmp_path / "model.pt") as whole:
        records = {name: whole.read(name) for name in whole.namelist()}
    pickled = next(name for name in records if name.endswith("data.pkl"))
    size = b"M" + (777).to_bytes(2, "little")
    start = records[pickled].rindex(size)
    records[pickled] = records[pickled][:start] + b"M\xff\xff" + records[pickled][start + 3 :]
    with zipfile.ZipFile(tmp_path / "lies.pt", "w") as lies:
        for name, content in records.items():
            lies.writestr(name, content)
    with pytest.raises(CheckpointError, match=r"is damaged: .*storage"):
        edgeqkv.load(tmp_path / "lies.pt")


def test_bytes_in_another_machines_order_are_never_given_back(tmp_path: Path, tiny_checkpoint: Path) -> None:
    """Torch swaps them in memory; a page that the file holds too would come back unswapped."""
    other = "big" if sys.byteorder == "little" else "little"
    with zipfile.ZipFile(tiny_checkpoint) as whole, zipfile.ZipFile(tmp_path / "swapped.pt", "w") as swapped:
        for name in whole.namelist():
            content = whole.read(name)
            if "/data/" in name:
                content = np.frombuffer(content, np.uint32).byteswap().tobytes()
            swapped.writestr(name, other.encode() if name.endswith("/byteorder") else content)
    ours, theirs = edgeqkv.load(tiny_checkpoint), edgeqkv.load(tmp_path / "swapped.pt")
    for mine, weight in zip(ours.weights, theirs.weights, strict=True):
        weight.release_pages()
        assert torch.equal(mine.tensor, weight.tensor)
