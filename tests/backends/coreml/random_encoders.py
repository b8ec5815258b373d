"""Encoders with random weights in the authors' formats, for what no checkpoint in tests/data is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

__all__ = ["write_set_model", "write_vit"]

Tensors = dict[str, torch.Tensor]

VARIANTS = {("c_q", "c_k", "c_v"): "QKV", ("c_q", "c_kv"): "Q!=K=V", ("c_qkv",): "Q=K=V"}


def write_vit(
    path: Path,
    *,
    task: str | None,
    size: int = 12,
    patch: int = 4,
    channels: int = 3,
    width: int = 32,
    layers: int = 1,
    heads: int = 2,
    classes: int = 10,
    projections: Sequence[str] = ("c_q", "c_kv"),
    seed: int = 0,
) -> Path:
    """A `ViT`; without a ``task`` in the ImageNet script's format, which has no config."""
    torch.manual_seed(seed)
    side = -(-size // patch)
    state = {
        "patch_embed.proj.weight": torch.randn(width, channels, patch, patch) * 0.2,
        "patch_embed.proj.bias": torch.randn(width) * 0.1,
        "cls": torch.randn(1, 1, width),
        "pos_emb": torch.randn(1, 1 + side * side, width),
        **_trunk(width, layers, projections, second=3),
        **_linear("head", classes, width),
    }
    config = {
        "image_size": size,
        "channels": channels,
        "patch": patch,
        "n_classes": classes,
        "n_embd": width,
        "n_layer": layers,
        "n_head": heads,
        "variant": VARIANTS[tuple(projections)],
        "n_inner_mult": 4,
    }
    if task is None:
        torch.save({"model_state_dict": state, "opt_state_dict": {}, "epoch": 1}, path)
    else:
        told = {"task": task, "model": "ViT", "variant": config["variant"], "config": config}
        torch.save({**told, "model_state_dict": state}, path)
    return path


def write_set_model(path: Path, *, width: int = 32, layers: int = 1, heads: int = 2) -> Path:
    """A `SetAnomalyModel` of variant Q-K=V."""
    torch.manual_seed(0)
    config = {"n_embd": width, "n_layer": layers, "n_head": heads, "variant": "Q!=K=V"}
    state = {
        **_linear("embed", width, 512, 0.04),
        **_trunk(width, layers, ("c_q", "c_kv"), second=2),
        **_linear("head", 1, width),
    }
    told = {"task": "anomaly", "model": "SetAnomalyModel", "variant": "Q!=K=V", "config": config}
    torch.save({**told, "model_state_dict": state}, path)
    return path


def _trunk(width: int, layers: int, projections: Sequence[str], second: int) -> Tensors:
    state = _norm("ln_f", width)
    for index in range(layers):
        block = f"blocks.{index}"
        state |= _norm(f"{block}.ln1", width) | _norm(f"{block}.ln2", width)
        for name in (*projections, "c_proj"):
            state |= _linear(f"{block}.attn.{name}", width, width)
        state |= _linear(f"{block}.mlp.0", 4 * width, width) | _linear(f"{block}.mlp.{second}", width, 4 * width)
    return state


def _linear(name: str, rows: int, columns: int, scale: float | None = None) -> Tensors:
    weight = torch.randn(rows, columns) * (columns**-0.5 if scale is None else scale)
    return {f"{name}.weight": weight, f"{name}.bias": torch.randn(rows) * 0.1}


def _norm(name: str, width: int) -> Tensors:
    return {f"{name}.weight": 1 + torch.randn(width) * 0.1, f"{name}.bias": torch.randn(width) * 0.1}
