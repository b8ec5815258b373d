"""Safetensors: tensors alone, with the model's config in a file beside them.

The config is read from ``config.json`` (or ``NAME.json``); what comes out has the same keys as a ``.pt``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgeqkv.checkpoints.archive import Archive
from edgeqkv.errors import CheckpointError
from edgeqkv.model import storage

__all__ = ["matches", "read"]


def matches(path: Path) -> bool:
    """Whether the file is in this format, by its name."""
    return path.suffix == ".safetensors"


def read(path: Path) -> Archive:
    """Map the file, and read its config.

    Raises:
        CheckpointError: it is damaged, or its config is missing or damaged.
    """
    from safetensors import SafetensorError, safe_open

    config = _config(path)
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except SafetensorError as error:
        raise CheckpointError(f"{path} is not a safetensors file or is damaged: {error}") from error
    storage.register_mapped(*tensors.values())
    return Archive(path, {"model_state_dict": tensors, "model_config": config})


def _config(path: Path) -> Any:
    candidates = [path.with_name("config.json"), path.with_suffix(".json")]
    found = next((candidate for candidate in candidates if candidate.exists()), None)
    if found is None:
        raise CheckpointError(
            f"{path} holds tensors alone, and its config is missing: put the training script's model_config beside it "
            f"as {candidates[0].name} or {candidates[1].name}"
        )
    try:
        config = json.loads(found.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{found} is not JSON: {error}") from error
    return config["model_config"] if isinstance(config, Mapping) and "model_config" in config else config
