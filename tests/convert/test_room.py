"""Tensors in memory as far as there is room, and in a file beyond."""

from __future__ import annotations

import gc

import pytest
import torch

from edgeqkv import InputError
from edgeqkv.convert.room import Room
from edgeqkv.model import storage


def lies_in_a_file(tensor: torch.Tensor) -> bool:
    return tensor.untyped_storage() in storage._MAPPED


def test_room_is_taken_and_free_again() -> None:
    room = Room(1000)
    first, second = room.zeros(10, 20), room.zeros(10, 20)
    assert not lies_in_a_file(first)
    assert lies_in_a_file(second)
    assert not lies_in_a_file(room.zeros(50))
    part = first[3]
    del first
    gc.collect()
    assert lies_in_a_file(room.zeros(10, 20))  # a view of it is left
    del part
    gc.collect()
    assert not lies_in_a_file(room.zeros(10, 20))


def test_what_was_written_to_the_file_is_still_there_when_its_memory_was_given_back() -> None:
    room, numbers = Room(0), torch.arange(200_000.0).view(100, 2000)
    kept = room.kept(numbers)
    kept[1] += 1
    storage.give_back(kept)
    numbers[1] += 1
    assert torch.equal(kept, numbers)


def test_without_a_limit_nothing_is_copied() -> None:
    tensor = torch.zeros(3)
    assert Room().kept(tensor) is tensor
    assert not lies_in_a_file(Room().zeros(1000, 100))


def test_a_disk_without_room_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full)
    with pytest.raises(InputError, match=r"needs 400 B in .* --memory has no room for: No space left on device\. Name"):
        Room(10).zeros(100)
