"""Random checkpoints in the encoders' formats, of any size and variant: for tests and benchmarks."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import torch

from edgeqkv.model.variants import Sharing, Variant

__all__ = ["VIT_S16", "random_set_model", "random_vit", "write_random_vit"]

VIT_S16: Final[dict[str, int]] = {
    "image_size": 224,
    "channels": 3,
    "patch": 16,
    "n_classes": 1000,
    "n_embd": 384,
    "n_layer": 12,
    "n_head": 6,
}
"""The paper's ImageNet model."""

_PROJECTIONS: Final = {
    Sharing.QKV: ("c_q", "c_k", "c_v"),
    Sharing.Q_IS_K: ("c_qk", "c_v"),
    Sharing.K_IS_V: ("c_q", "c_kv"),
    Sharing.ALL: ("c_qkv",),
    Sharing.QVV3: ("c_q1", "c_q2", "c_v"),
}


def random_vit(variant: Variant, *, seed: int = 0, std: float = 0.02, **config: int) -> dict[str, Any]:
    """A `ViT` in the encoders' format, with normally distributed weights.

    Args:
        variant: projection sharing, and whether there is the 2-D position term.
        seed: of the random numbers.
        std: of the matrices; larger than 0.02 makes small models less alike.
        config: ``image_size, channels, patch, n_classes, n_embd, n_layer, n_head``, such as `VIT_S16`.
    """
    weights = _Weights(seed, std)
    width, patch, side = config["n_embd"], config["patch"], -(-config["image_size"] // config["patch"])
    weights.state["patch_embed.proj.weight"] = weights.normal(width, config["channels"], patch, patch)
    weights.state["patch_embed.proj.bias"] = weights.normal(width)
    weights.state["cls"] = weights.normal(1, 1, width)
    weights.state["pos_emb"] = weights.normal(1, 1 + side * side, width)
    weights.trunk(variant, width, config["n_layer"], 1 + side * side, second=3)
    weights.linear("head", config["n_classes"], width)
    return _checkpoint("ViT", "vision-random", variant, config, weights.state)


def random_set_model(variant: Variant, *, seed: int = 0, std: float = 0.02, **config: int) -> dict[str, Any]:
    """A `SetAnomalyModel`, of which no weights are published: ``n_embd, n_layer, n_head``."""
    weights = _Weights(seed, std)
    weights.linear("embed", config["n_embd"], 512)
    weights.trunk(variant, config["n_embd"], config["n_layer"], 10, second=2)
    weights.linear("head", 1, config["n_embd"])
    return _checkpoint("SetAnomalyModel", "set-anomaly", variant, config, weights.state)


def write_random_vit(
    path: Path, variant: str, *, config: bool = True, seed: int = 0, std: float = 0.02, **sizes: int
) -> Path:
    """Save a `random_vit` and return where it lies; without ``config``, as the ImageNet script saves it."""
    checkpoint = random_vit(Variant.parse(variant), seed=seed, std=std, **sizes)
    if not config:
        checkpoint = {"model_state_dict": checkpoint["model_state_dict"], "opt_state_dict": {}, "epoch": 99}
    torch.save(checkpoint, path)
    return path


class _Weights:
    """A state dict in the making."""

    def __init__(self, seed: int, std: float) -> None:
        self.state: dict[str, torch.Tensor] = {}
        self._std = std
        self._generator = torch.Generator().manual_seed(seed)

    def normal(self, *shape: int, mean: float = 0.0) -> torch.Tensor:
        return torch.empty(shape).normal_(mean, self._std, generator=self._generator)

    def linear(self, name: str, rows: int, columns: int) -> None:
        self.state[f"{name}.weight"], self.state[f"{name}.bias"] = self.normal(rows, columns), self.normal(rows)

    def norm(self, name: str, width: int) -> None:
        self.state[f"{name}.weight"], self.state[f"{name}.bias"] = self.normal(width, mean=1.0), self.normal(width)

    def trunk(self, variant: Variant, width: int, layers: int, tokens: int, *, second: int) -> None:
        for layer in range(layers):
            prefix = f"blocks.{layer}"
            self.norm(f"{prefix}.ln1", width)
            for name in (*_PROJECTIONS[variant.sharing], "c_proj"):
                self.linear(f"{prefix}.attn.{name}", width, width)
            if variant.position_2d:
                self.state[f"{prefix}.attn.pos2d"] = self.normal(tokens, tokens, 10)
                self.state[f"{prefix}.attn.pos_w"], self.state[f"{prefix}.attn.pos_b"] = self.normal(10), self.normal(1)
            self.norm(f"{prefix}.ln2", width)
            self.linear(f"{prefix}.mlp.0", 4 * width, width)
            self.linear(f"{prefix}.mlp.{second}", width, 4 * width)
        self.norm("ln_f", width)


def _checkpoint(
    model: str, task: str, variant: Variant, config: dict[str, int], state: dict[str, torch.Tensor]
) -> dict[str, Any]:
    return {
        "task": task,
        "variant": str(variant),
        "model": model,
        "config": {**config, "variant": str(variant)},
        "test_accuracy": 0.0,
        "model_state_dict": state,
    }
