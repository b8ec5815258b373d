"""The ImageNet script's format: ``{model_state_dict, opt_state_dict, epoch, …}``, a `ViT` without its config.

Shapes tell all of it but two things. The number of heads has to be asked for; and the size of the image, of which
the positions tell only how many patches it had, is taken to divide into them.
"""

from __future__ import annotations

import re
from math import isqrt
from typing import Any

import torch

from edgeqkv.checkpoints.architectures.encoder import Facts, read_as
from edgeqkv.checkpoints.archive import Archive
from edgeqkv.errors import CheckpointError
from edgeqkv.model.model import Model

__all__ = ["matches", "read"]

_BLOCK = re.compile(r"blocks\.(\d{1,4})\.")


def matches(archive: Archive) -> bool:
    """Whether the archive is in this format."""
    contents = archive.contents
    if "model_state_dict" not in contents or not contents.keys().isdisjoint({"config", "model_config"}):
        return False
    return "patch_embed.proj.weight" in archive.state_dict()


def read(archive: Archive, heads: int | None = None) -> Model:
    """Read the model, which has so many ``heads``.

    Raises:
        CheckpointError: the heads were not given, or do not fit; the message says what was inferred.
    """
    config = _inferred(archive)
    found = (
        f"{config['n_layer']} layers, {config['n_embd']} channels, patches of {config['patch']} pixels, "
        f"{config['channels']} channels of {config['image_size']} × {config['image_size']} pixels"
    )
    if heads is None:
        dims = [d for d in (64, 32, 128) if config["n_embd"] % d == 0]
        guess = f", such as --heads {config['n_embd'] // dims[0]} (heads of {dims[0]} channels)" if dims else ""
        raise CheckpointError(
            f"{archive.path} carries no config. Its shapes say: {found}. They cannot say how many heads it has; give "
            f"that with --heads N{guess}"
        )
    facts = Facts(
        model_class="ViT",
        task="vision-imagenet",
        config={**config, "n_head": heads},
        training=archive.numbers("epoch", "best_epoch", "best_top1"),
        notes=(f"the file carries no config: {found} were inferred from shapes, {heads} heads were told",),
    )
    return read_as(archive, facts)


def _inferred(archive: Archive) -> dict[str, Any]:
    state = archive.state_dict()
    width, channels, patch, _ = _shape(archive, state, "patch_embed.proj.weight", 4)
    inner, _ = _shape(archive, state, "blocks.0.mlp.0.weight", 2)
    patches = _shape(archive, state, "pos_emb", 3)[1] - 1
    side = isqrt(patches)
    if side * side != patches:
        raise CheckpointError(f"'pos_emb' in {archive.path} is for {patches} patches, which make no square image")
    return {
        "n_embd": width,
        "n_layer": 1 + max(int(match[1]) for name in state if (match := _BLOCK.match(name))),
        "n_inner_mult": inner // width,
        "channels": channels,
        "patch": patch,
        "image_size": side * patch,
    }


def _shape(archive: Archive, state: dict[str, torch.Tensor], name: str, dims: int) -> tuple[int, ...]:
    tensor = state.get(name)
    if not isinstance(tensor, torch.Tensor) or tensor.is_nested or tensor.dim() != dims or not tensor.numel():
        raise CheckpointError(f"'{name}' is missing from {archive.path}, or has not {dims} dimensions, or is empty")
    return tuple(tensor.shape)
