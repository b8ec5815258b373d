"""What all tests share: the checkpoints in the authors' format, with the original classes' logits."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from forked_workers import forked

import edgeqkv
from edgeqkv.checkpoints.synthetic import write_random_checkpoint

# Tests run side by side, and tiny products gain nothing from more threads. The variable is for the processes that
# tests start.
torch.set_num_threads(1)
os.environ.setdefault("OMP_NUM_THREADS", "1")

gc.disable()  # until all is imported, of which nothing is garbage

SLOWEST = ("test_docs.py", "test_first_hour.py", "executorch", "coreml", "pipeline", "cli", "fuzz", "onnx")
"""Files and folders that take longest, which start first: what one of two processes does last should be short."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Order the files; ``make test`` hands them out whole, in this order."""
    items.sort(key=lambda item: next((i for i, name in enumerate(SLOWEST) if name in item.path.parts), len(SLOWEST)))


def leave_to_itself() -> None:
    """Have the collector look no more at what is in memory now: libraries and tests, 600,000 objects and more.

    coremltools has it look at all of them three times an export, which took longer than the rest of the export.
    """
    gc.collect()
    gc.freeze()


def pytest_collection_finish() -> None:
    leave_to_itself()
    gc.enable()


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """After each file, which may have imported another library."""
    if nextitem is not None and nextitem.path != item.path:
        leave_to_itself()


@pytest.fixture(scope="session", autouse=True)
def workers() -> Iterator[None]:
    """Processes that run artifacts are forks of one that has imported what they need."""
    if sys.platform == "linux":
        with forked():
            yield
    else:
        yield


DATA = Path(__file__).parent / "data" / "checkpoints"

VARIANTS = {
    "qkv": "qkv",
    "q_eq_k": "q=k-v",
    "k_eq_v": "q-k=v",
    "q_eq_k_eq_v": "q=k=v",
    "gqa": "qkv+gqa4",
    "mqa": "qkv+mqa",
    "k_eq_v_gqa": "q-k=v+gqa4",
    "k_eq_v_mqa": "q-k=v+mqa",
}
"""The checkpoints in tests/data, one of each class of the training scripts, and what they are."""


@dataclass(frozen=True)
class Golden:
    """A checkpoint and what its original class computed: ``ids [64]``, ``logits [64, 257]``."""

    name: str
    variant: str
    path: Path
    ids: np.ndarray[Any, Any]
    logits: np.ndarray[Any, Any]


def read_golden(name: str) -> Golden:
    with np.load(DATA / f"{name}.golden.npz") as file:
        return Golden(name, VARIANTS[name], DATA / f"{name}.pt", file["ids"][0], file["logits"][0])


@pytest.fixture(params=VARIANTS)
def golden(request: pytest.FixtureRequest) -> Golden:
    """Each of the eight classes in turn."""
    return read_golden(request.param)


@pytest.fixture
def gqa_golden() -> Golden:
    """One of them, the paper's best: Q-K=V with four KV heads."""
    return read_golden("k_eq_v_gqa")


ENCODERS = {
    "encoder_reverse_qkv": "qkv",
    "encoder_reverse_q_eq_k_ne_v": "q=k-v",
    "encoder_reverse_q_eq_k_ne_v_2d": "q=k-v+2d",
    "encoder_reverse_q_ne_k_eq_v": "q-k=v",
    "encoder_reverse_q_eq_k_eq_v": "q=k=v",
    "encoder_reverse_q_eq_k_eq_v_2d": "q=k=v+2d",
    "encoder_reverse_qvv3": "qvv3",
    "vit_digits_qkv": "qkv",
    "vit_digits_q_ne_k_eq_v": "q-k=v",
    "vit_digits_q_eq_k_eq_v_2d": "q=k=v+2d",
    "vit_digits_qvv3": "qvv3",
}
"""The encoders in tests/data, trained ones, and what they are."""


@dataclass(frozen=True)
class EncoderGolden:
    """An encoder and what its original class computed: ``inputs [16, …]``, ``logits [16, …]``."""

    name: str
    variant: str
    path: Path
    inputs: np.ndarray[Any, Any]
    logits: np.ndarray[Any, Any]


def read_encoder_golden(name: str) -> EncoderGolden:
    with np.load(DATA / f"{name}.golden.npz") as file:
        return EncoderGolden(name, ENCODERS[name], DATA / f"{name}.pt", file["input"], file["logits"])


@pytest.fixture(params=ENCODERS)
def encoder_golden(request: pytest.FixtureRequest) -> EncoderGolden:
    """Each of the encoders in turn."""
    return read_encoder_golden(request.param)


TINY = {"n_layer": 2, "n_embd": 32, "n_head": 4, "n_positions": 48, "vocab_size": 97}


@pytest.fixture
def tiny_checkpoint(tmp_path: Path) -> Path:
    """A random Q-K=V checkpoint, smaller still."""
    return write_random_checkpoint(tmp_path / "tiny.pt", "q-k=v+gqa2", std=0.2, **TINY)


@pytest.fixture
def tiny_model(tiny_checkpoint: Path) -> Any:
    return edgeqkv.load(tiny_checkpoint)
