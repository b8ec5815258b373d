"""A Hugging Face model directory: ``config.json``, and safetensors in one file or in several with an index."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch

from edgeqkv.checkpoints.archive import Archive
from edgeqkv.checkpoints.foreign import refuse_pointer
from edgeqkv.errors import CheckpointError
from edgeqkv.model import storage
from edgeqkv.reading import is_file, is_folder, reading

__all__ = ["CONFIG", "matches", "read"]

CONFIG: Final = "config.json"

_WHOLE: Final = "model.safetensors"
_INDEX: Final = "model.safetensors.index.json"
_KEYS: Final = frozenset({"architectures", "model_type", "transformers_version"})
"""What a config of transformers' has at least one of."""


def matches(path: Path) -> bool:
    """Whether this is such a directory, or a file of one."""
    if not is_folder(path) and not (path.name in (_WHOLE, _INDEX, CONFIG) and is_file(path)):
        return False
    config = _directory(path) / CONFIG
    if not is_file(config):
        return False
    content = _parsed(config)
    return isinstance(content, Mapping) and not _KEYS.isdisjoint(content)


def read(path: Path) -> Archive:
    """Map the files, and read the config.

    Raises:
        CheckpointError: one of them is missing or damaged, or holds numbers of a type that no model is trained in.
    """
    directory = _directory(path)
    config = _json(directory / CONFIG)
    tensors: dict[str, torch.Tensor] = {}
    for file, names in _files(directory).items():
        found = _mapped(directory / file)
        if absent := sorted(names - set(found)):
            raise CheckpointError(f"{directory / file} holds no '{absent[0]}', which {_INDEX} says that it does")
        tensors |= found
    return Archive(directory, {CONFIG: config, "model_state_dict": tensors})


def _files(directory: Path) -> Mapping[str, set[str]]:
    """The files of a model, and the tensors that must be in each."""
    if is_file(directory / _WHOLE):
        return {_WHOLE: set()}
    if not is_file(directory / _INDEX):
        old = next(
            (name for name in ("pytorch_model.bin", "pytorch_model.bin.index.json") if is_file(directory / name)), ""
        )
        also = (
            f"; it has {old}, which is to be saved anew where you trust it: "
            f"AutoModelForCausalLM.from_pretrained('{directory}').save_pretrained(…)"
            if old
            else ""
        )
        raise CheckpointError(f"{directory} has neither {_WHOLE} nor {_INDEX}{also}")
    places = _json(directory / _INDEX).get("weight_map")
    if not isinstance(places, Mapping) or not places:
        raise CheckpointError(f"{directory / _INDEX} has no 'weight_map', which says where each tensor is")
    files: dict[str, set[str]] = {}
    for name, file in places.items():
        if not isinstance(file, str) or Path(file).name != file:
            raise CheckpointError(f"{directory / _INDEX} puts '{name}' into {file!r}, which is no file beside it")
        files.setdefault(file, set()).add(str(name))
    absent = [file for file in files if not is_file(directory / file)]
    if absent:
        raise CheckpointError(
            f"{directory} is incomplete: {', '.join(absent[:3])} of {len(files)} files that {_INDEX} names "
            f"{'is' if len(absent) == 1 else 'are'} missing. Copy or download {'it' if len(absent) == 1 else 'them'}"
        )
    return files


def _mapped(file: Path) -> dict[str, torch.Tensor]:
    from safetensors import safe_open

    refuse_pointer(file)
    with reading(file, "a safetensors file"), safe_open(file, framework="pt") as opened:
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - not a dict
        aliases = opened.metadata() or {}
    storage.register_mapped(*tensors.values())
    # Of tensors that share memory the format keeps one; under which name the others went is in its metadata.
    return {**{alias: tensors[name] for alias, name in aliases.items() if name in tensors}, **tensors}


def _json(file: Path) -> Mapping[str, Any]:
    content = _parsed(file)
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{file} holds a {type(content).__name__}, not a dict")
    return content


def _parsed(file: Path) -> Any:
    refuse_pointer(file)
    with reading(file, "JSON"):
        return json.loads(file.read_text(encoding="utf-8"))


def _directory(path: Path) -> Path:
    return path if is_folder(path) else path.parent
