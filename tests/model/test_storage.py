"""Giving memory back: what is a file's, and nothing else, whatever a tensor claims to be."""

from __future__ import annotations

import json
import mmap
import re
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from edgeqkv.checkpoints import open_archive
from edgeqkv.model import storage
from edgeqkv.model.weights import Weight

ROWS, COLUMNS = 1024, 2048

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def resident_bytes(tensor: torch.Tensor) -> int:
    """Of the mapping that the tensor lies in, as the system counts it."""
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if mapping := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            inside = int(mapping[1], 16) <= tensor.data_ptr() < int(mapping[2], 16)
        elif inside and line.startswith("Rss:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("it lies nowhere")


def mapped(folder: Path, suffix: str = ".pt", dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """A matrix of ones in a mapped file, with neighbours that are no whole pages."""
    tensors = {"before": torch.ones(3), "matrix": torch.ones(ROWS, COLUMNS, dtype=dtype), "after": torch.ones(5)}
    path = folder / f"model{suffix}"
    if suffix == ".pt":
        torch.save({"model_state_dict": tensors}, path)
    else:
        save_file(tensors, path)
        (folder / "config.json").write_text(json.dumps({}))
    matrix: torch.Tensor = open_archive(path).contents["model_state_dict"]["matrix"]
    return matrix


def nested() -> torch.Tensor:
    """Rows of two lengths; torch cannot say which shape that is."""
    with warnings.catch_warnings(action="ignore"):  # a prototype, says torch
        return torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])


@linux
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_mapped_tensor_is_given_back_and_read_again(suffix: str, tmp_path: Path) -> None:
    weight = Weight("matrix", mapped(tmp_path, suffix))
    assert weight.tensor.sum() == ROWS * COLUMNS
    held = resident_bytes(weight.tensor)
    weight.release_pages()
    assert held - resident_bytes(weight.tensor) > 0.95 * weight.tensor.nbytes
    assert weight.tensor.sum() == ROWS * COLUMNS


@linux
def test_rows_give_back_no_more_than_themselves(tmp_path: Path) -> None:
    weight = Weight("matrix", mapped(tmp_path))
    weight.tensor.sum()
    held = resident_bytes(weight.tensor)
    weight.rows(256, 512).release_pages()
    given = held - resident_bytes(weight.tensor)
    assert 0.9 * weight.tensor.nbytes / 4 < given < 1.1 * weight.tensor.nbytes / 4


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_converted_tensor_is_kept(suffix: str, tmp_path: Path) -> None:
    half = mapped(tmp_path, suffix, torch.float16)
    for tensor in (half.float(), half.clone(), half.T.contiguous(), torch.ones(ROWS, COLUMNS)):
        Weight("copy", tensor).release_pages()
        assert tensor.sum(dtype=torch.float64) == ROWS * COLUMNS


def test_what_is_no_mapping_is_not_registered_on_anybodys_word() -> None:
    ours = torch.ones(ROWS, COLUMNS)
    storage.register_mapped(ours)
    if sys.platform == "linux":
        storage.give_back(ours)
    assert ours.sum() == ROWS * COLUMNS


@linux
def test_what_lies_outside_the_registered_addresses_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file's pages that this process wrote to are its own: given back, they would come back as the file has them."""
    matrix = mapped(tmp_path)
    matrix.fill_(2)
    memory = matrix.untyped_storage()
    start = memory.data_ptr()
    monkeypatch.setitem(storage._MAPPED, memory, range(start, start + memory.nbytes() // 2))
    storage.give_back(matrix)
    assert (matrix[ROWS // 2 :] == 2).all()
    assert (matrix[ROWS // 4] == 1).all()
    matrix.fill_(2)
    monkeypatch.setitem(storage._MAPPED, memory, range(start - mmap.PAGESIZE, start + memory.nbytes()))
    storage.give_back(matrix)  # a storage that was registered with other memory than it has now
    assert (matrix == 2).all()


def test_a_registration_ends_with_the_memory(tmp_path: Path) -> None:
    before = len(storage._MAPPED)
    matrix = mapped(tmp_path)
    view = matrix[3:5].detach()
    del matrix
    assert len(storage._MAPPED) == before + 1
    assert view.untyped_storage() in storage._MAPPED
    del view
    assert len(storage._MAPPED) == before


def test_a_tensor_of_one_number_in_many_places_gives_back_nobodys_memory(tmp_path: Path) -> None:
    """By its shape it is 4 GB, and a process has its stacks and libraries where they would be."""
    script = f"""
        import torch
        from pathlib import Path
        from edgeqkv.checkpoints import open_archive
        from edgeqkv.model.weights import Weight

        path = Path({str(tmp_path / "model.pt")!r})
        torch.save({{"wide": torch.full((1,), 3.0).expand(1 << 15, 1 << 15), "rest": torch.ones(100_000)}}, path)
        contents = open_archive(path).contents
        ours = torch.ones(1 << 20)
        Weight("wide", contents["wide"]).release_pages()
        Weight("rest", contents["rest"]).release_pages()
        assert contents["wide"].untyped_storage().nbytes() == 4
        print(float(contents["wide"][-1, -1]), float(contents["rest"].sum()), float(ours.sum()))
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["3.0", "100000.0", f"{1 << 20}.0"]


def test_tensors_without_memory_are_left_alone() -> None:
    for tensor in (torch.eye(3).to_sparse(), torch.ones(3, device="meta"), torch.ones(0, 4), nested()):
        storage.register_mapped(tensor)
        storage.give_back(tensor)


def test_what_is_wrong_with_a_tensor_is_said() -> None:
    matrix = torch.ones(4, 6)
    for fine in (matrix, matrix.T, matrix[1:3, ::2], matrix[0:0], torch.tensor(1.0)):
        assert storage.fault(fine) is None
    beyond = torch.ones(4, 6)
    beyond.untyped_storage().resize_(40)
    cases = {
        "reaches beyond its storage.*over 40 bytes": beyond,
        r"overlaps itself: its 24 numbers .* have 4 places\. Save it": torch.ones(4, 1).expand(4, 6),
        "overlaps itself: its 9 numbers .* have 5 places": torch.ones(20).as_strided((3, 3), (1, 1)),
        "no dense tensor in memory but sparse_coo": torch.eye(3).to_sparse(),
        "no dense tensor in memory but meta": torch.ones(3, device="meta"),
        "no dense tensor in memory but nested": nested(),
    }
    for message, tensor in cases.items():
        assert re.search(message, storage.fault(tensor) or "")
