"""Files of tensors that are written a piece at a time: what is in them, and what a full disk does."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import edgeqkv.checkpoints.saving
from edgeqkv.checkpoints.saving import Parts, save_safetensors, save_torch
from edgeqkv.model import weights
from edgeqkv.model.weights import Weight


@pytest.fixture
def parts() -> Parts:
    """Whole tensors, neighbours, strangers, a view with others around it, and one that lies the other way."""
    generator = torch.Generator().manual_seed(0)

    def weight(*shape: int, dtype: torch.dtype = torch.float32) -> Weight:
        return Weight("w", torch.randn(shape, generator=generator).to(dtype))

    whole, half = weight(30, 7), weight(5, 3, dtype=torch.bfloat16)
    return {
        "half": [half],
        "row": [weight(9)],
        "whole": [whole],
        "neighbours": [whole.rows(2, 4), whole.rows(4, 11)],
        "strangers": [weight(2, 7), weight(4, 7)],
        "two types": [half, weight(1, 3)],
        "view": [whole.rows(3, 5)],
        "turned": [Weight("t", whole.tensor.T)],
    }


@pytest.fixture
def expected(parts: Parts) -> dict[str, torch.Tensor]:
    return {
        name: torch.cat(
            [each.tensor.to(torch.promote_types(some[0].tensor.dtype, some[-1].tensor.dtype)) for each in some]
        )
        for name, some in parts.items()
    }


def test_what_is_saved_is_what_was_given(
    parts: Parts, expected: dict[str, torch.Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "_VALUES_AT_ONCE", 16)  # some rows at a time
    monkeypatch.setattr(edgeqkv.checkpoints.saving, "_BYTES_AT_ONCE", 64)
    save_safetensors(parts, tmp_path / "a.safetensors")
    save_torch(parts, tmp_path / "a.pt", key="state", others={"step": 3})
    contents = torch.load(tmp_path / "a.pt", weights_only=True)
    assert contents["step"] == 3
    for found in (load_file(tmp_path / "a.safetensors"), contents["state"]):
        assert found.keys() == expected.keys()
        for name, tensor in expected.items():
            assert found[name].dtype == tensor.dtype
            assert torch.equal(found[name], tensor)
    numbers = sum(tensor.nbytes for tensor in expected.values())
    assert (tmp_path / "a.safetensors").stat().st_size < numbers + 1024  # each number once


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no device that is always full")
def test_a_full_disk_is_an_error_of_the_system(parts: Parts) -> None:
    parts = {**parts, "large": [Weight("large", torch.zeros(1000, 1000))]}
    with pytest.raises(OSError, match="No space left"):
        save_safetensors(parts, Path("/dev/full"))
    with pytest.raises(OSError, match="No space left"):
        save_torch(parts, Path("/dev/full"), key="state", others={})
