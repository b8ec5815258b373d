from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import edgeqkv
from edgeqkv import CheckpointError


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
    script = f"""
import resource, torch
import edgeqkv
from edgeqkv.checkpoints.synthetic import write_random_checkpoint

sizes = dict(n_layer=1, n_embd=256, n_head=4, n_positions=64, vocab_size=512)
state = write_random_checkpoint({str(tmp_path / "model.pt")!r}, "q-k=v", **sizes)
contents = torch.load(state, weights_only=True)
contents["optimizer_state_dict"] = {{"state": {{0: torch.ones(96 << 18)}}}}
contents["model_state_dict"]["h.0.attn.bias"] = torch.ones(1, 1, 6144, 4096)
torch.save(contents, state)
"""
    subprocess.run([sys.executable, "-c", script], check=True)
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
