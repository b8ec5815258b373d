"""Files that people have and edgeqkv does not read: what they are, and the line that makes something of them.

Nothing here reads a model. A line that unpickles says so, because it runs what is in the file.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import torch

from edgeqkv.errors import CheckpointError
from edgeqkv.reading import check_file, is_file, is_folder, shortened

__all__ = ["described", "refuse_hub_model", "refuse_path", "refuse_pointer", "refuse_shard", "refused_pickle"]

_POINTER: Final = b"version https://git-lfs.github.com/spec/"
_SHARD: Final = re.compile(r"(.+)-\d{5}-of-(\d{5})\.safetensors")
_HUB_KEYS: Final = frozenset({"architectures", "transformers_version"})

_LIGHTNING: Final = 'c["state_dict"]'
_FORMAT: Final = (
    "edgeqkv reads a dict of 'model_state_dict', the tensors by the names that the training script gives them, and "
    "'model_config', a dict of n_layer, n_embd, n_head, n_positions and vocab_size"
)


def refuse_path(path: Path) -> None:
    """Raise `CheckpointError` unless the path is that of a file which may hold a checkpoint."""
    if is_folder(path):
        raise CheckpointError(_of_folder(path))
    try:
        check_file(path)
    except CheckpointError as error:
        if not isinstance(error.__cause__, FileNotFoundError):
            raise
        raise CheckpointError(f"there is no file {path}") from error
    refuse_pointer(path)
    if path.name.endswith(".safetensors.index.json"):
        raise CheckpointError(f"{path} lists the parts of a model. {_joining(path.name.partition('.')[0])}")
    if path.suffix == ".json":
        raise CheckpointError(f"{path} is no checkpoint; give the .pt or .safetensors file that it belongs to")


def _of_folder(path: Path) -> str:
    if is_file(path / ".metadata"):
        return (
            f"{path} is a folder that torch.distributed.checkpoint wrote; make a file of it: "
            f"python -m torch.distributed.checkpoint.format_utils dcp_to_torch {shlex.quote(str(path))} model.pt"
        )
    return (
        f"{path} is a folder, and no Hugging Face model's, which would have a config.json that says so; give the "
        f"checkpoint file in it (model.pt, model.safetensors)"
    )


def refuse_pointer(path: Path) -> None:
    """Raise `CheckpointError` if Git holds the file elsewhere, and only says so here."""
    with path.open("rb") as file:
        if file.read(len(_POINTER)) == _POINTER:
            raise CheckpointError(
                f"{path} is a Git LFS pointer, not the file itself; fetch it in its repository with: git lfs pull"
            )


def refuse_shard(path: Path) -> None:
    """Raise `CheckpointError` if a safetensors file is one of several that make a model."""
    if match := _SHARD.fullmatch(path.name):
        raise CheckpointError(f"{path} is one of {int(match[2])} parts of a model. {_joining(match[1])}")


def _joining(stem: str) -> str:
    code = (
        f"import glob; from safetensors.torch import load_file, save_file; save_file({{name: tensor for file in "
        f'sorted(glob.glob("{stem}-*-of-*.safetensors")) for name, tensor in load_file(file).items()}}, '
        f'"joined.safetensors")'
    )
    return f"Join them in their folder, and give the joined file: {_command(code)}"


def _command(code: str) -> str:
    """A line for a shell; its strings have double quotes, so that it stays readable."""
    return f"python -c {shlex.quote(code)}"


def refuse_hub_model(path: Path, config: Mapping[Any, Any]) -> None:
    """Raise `CheckpointError` if a config is one that ``transformers`` writes."""
    if not _HUB_KEYS.isdisjoint(config):
        kind = config.get("model_type")
        what = f" ({kind})" if isinstance(kind, str) else ""
        raise CheckpointError(
            f"{path} belongs to a Hugging Face model{what}, as its config says; give its folder, with the tensors in "
            f"model.safetensors: {path.parent}"
        )


def refused_pickle(path: Path, names: Sequence[str], why: str) -> CheckpointError:
    """The error for a pickle with more in it than tensors and plain values, and how to strip that.

    ``names`` are the functions and classes in it that are none of those; ``why`` is what the unpickler said.
    """
    stripped = path.with_name(f"{path.stem}-stripped.pt")
    code = (
        f'import torch; c = torch.load({json.dumps(str(path))}, "cpu", weights_only=False); torch.save({{k: vars(v) if '
        f'k.endswith("config") and not isinstance(v, dict) else v for k, v in c.items() if k in ("model_state_dict", '
        f'"ema_state_dict", "model_config", "model", "config", "task", "variant")}}, {json.dumps(str(stripped))})'
    )
    what = f"besides tensors and plain values it holds {', '.join(names)}, which unpickling would execute"
    if not names:
        what = f"it is damaged, or holds more than tensors and plain values ({why})"
    return CheckpointError(
        f"{path} was refused, and nothing in it was run: {what}. Only if you trust where it comes from, keep the model "
        f"and leave the rest out, which runs it: {_command(code)}"
    )


def described(path: Path, contents: Mapping[str, Any]) -> str:
    """What a file is whose dict no architecture took, and what to do with it."""
    if {"model", "model_args"} <= contents.keys():
        code = (
            f'import torch; c = torch.load({json.dumps(str(path))}, "cpu"); a = c["model_args"]; torch.save({{'
            f'"model_state_dict": {{k.replace("transformer.", ""): v for k, v in c["model"].items()}}, "model_config": '
            f'{{"n_layer": a["n_layer"], "n_head": a["n_head"], "n_embd": a["n_embd"], "n_positions": a["block_size"], '
            f'"vocab_size": a["vocab_size"], "use_bias": a["bias"]}}}}, "model.pt")'
        )
        return (
            f"{path} is a nanoGPT checkpoint, which edgeqkv does not read itself. One that was trained with bias=True "
            f"is a GPT of the paper but for its names; save it anew: {_command(code)}"
        )
    if "state_dict" in contents and any("lightning" in key for key in contents):
        return (
            f"{path} is a PyTorch Lightning checkpoint, which does not say what its model is. If that is one of the "
            f"paper's: {_save_anew(_LIGHTNING)}. {_FORMAT}"
        )
    if any(isinstance(value, torch.Tensor) for value in contents.values()):
        return (
            f"{path} holds tensors alone, no config. If its model is one of the paper's: {_save_anew('c')}. {_FORMAT}"
        )
    found = ", ".join(map(shortened, sorted(contents)[:8])) or "nothing"
    return (
        f"{path} is no model that edgeqkv knows: it holds {found}. Expected is a dict that the training scripts save: "
        f"'model_state_dict' with 'model_config' (language models), with 'model' and 'config' (encoders), or with the "
        f"tensors of a vision transformer"
    )


def _save_anew(weights: str) -> str:
    return (
        f'c = torch.load(file, "cpu"); torch.save({{"model_state_dict": {weights}, "model_config": {{…}}}}, "model.pt")'
    )
