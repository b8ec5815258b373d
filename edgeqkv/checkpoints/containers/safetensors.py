"""Safetensors: tensors alone, with the model's config in a file beside them.

The config is read from ``config.json`` (or ``NAME.json``); what comes out has the same keys as a ``.pt``. Of tensors
that shared memory the format keeps one; under which name the others went, ``save_model`` writes into the metadata.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from edgeqkv.checkpoints import foreign
from edgeqkv.checkpoints.archive import Archive
from edgeqkv.errors import CheckpointError
from edgeqkv.model import storage
from edgeqkv.reading import check_file, is_file, reading

__all__ = ["matches", "read"]


def matches(path: Path) -> bool:
    """Whether the file is in this format, by its name."""
    return path.suffix == ".safetensors"


def read(path: Path) -> Archive:
    """Map the file, and read its config.

    Raises:
        CheckpointError: it is damaged or a part of a model, or its config is missing or damaged.
    """
    from safetensors import safe_open

    foreign.refuse_shard(path)
    config = _config(path)
    with reading(path, "a safetensors file"), safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        metadata = file.metadata() or {}
    storage.register_mapped(*tensors.values())
    return Archive(path, {"model_state_dict": {**_aliases(metadata, tensors), **tensors}, "model_config": config})


def _aliases(metadata: Mapping[str, str], tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors that the file keeps under another name: its metadata maps the one to the other."""
    return {alias: tensors[name] for alias, name in metadata.items() if name in tensors}


def _config(path: Path) -> Any:
    candidates = [path.with_name("config.json"), path.with_suffix(".json")]
    found = next((candidate for candidate in candidates if is_file(candidate)), None)
    if found is None:
        raise CheckpointError(
            f"{path} holds tensors alone, and its config is missing: put the training script's model_config beside it "
            f"as {candidates[0].name} or {candidates[1].name}"
        )
    check_file(found)
    foreign.refuse_pointer(found)
    with reading(found, "JSON"):
        config = json.loads(found.read_text(encoding="utf-8"))
    return config["model_config"] if isinstance(config, Mapping) and "model_config" in config else config
