"""Random checkpoints in the language models' format, of any size and class.

For trying out an export before the training is done (its size, time and memory do not depend on the values), and
for edgeqkv's own tests and benchmarks.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from edgeqkv.model.variants import Sharing, Variant

__all__ = ["SCALES", "random_checkpoint", "write_random_checkpoint"]

SCALES: dict[str, dict[str, int]] = {
    "300m": {
        "n_layer": 20,
        "n_embd": 1024,
        "n_head": 16,
        "n_inner": 4096,
        "n_positions": 2048,
        "vocab_size": 50304,
    },
    "1.2b": {
        "n_layer": 22,
        "n_embd": 2048,
        "n_head": 32,
        "n_inner": 8192,
        "n_positions": 2048,
        "vocab_size": 50304,
    },
}
"""The paper's two sizes."""


def random_checkpoint(
    variant: Variant,
    *,
    seed: int = 0,
    std: float = 0.02,
    dtype: torch.dtype = torch.float32,
    optimizer: bool = False,
    masks: bool = False,
    ddp: bool = False,
    **sizes: int | bool,
) -> dict[str, Any]:
    """A checkpoint dict with normally distributed weights.

    Args:
        variant: which class to imitate.
        seed: of the random numbers.
        std: of the matrices; larger than GPT-2's 0.02 makes small models less alike.
        dtype: of the weights.
        optimizer: with AdamW's two moments, which triple the file.
        masks: with the causal masks that the training scripts save as ``attn.bias``.
        ddp: with the ``module.`` prefix of DistributedDataParallel.
        sizes: entries of ``model_config``: ``n_layer, n_embd, n_head, n_positions, vocab_size``, and optionally
            ``n_inner``, ``use_bias``, ``tie_word_embeddings``.
    """
    config: dict[str, Any] = {
        "n_inner": 4 * sizes["n_embd"],
        "layer_norm_epsilon": 1e-5,
        "use_bias": True,
        "tie_word_embeddings": True,
        **sizes,
    }
    generator = torch.Generator().manual_seed(seed)
    width, inner, positions = config["n_embd"], config["n_inner"], config["n_positions"]
    kv_heads = variant.kv_heads_of(config["n_head"])
    kv_width = kv_heads * (width // config["n_head"])
    state: dict[str, torch.Tensor] = {}

    def normal(*shape: int, mean: float = 0.0) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype).normal_(mean, std, generator=generator)

    def linear(name: str, rows: int, columns: int) -> None:
        state[f"{name}.weight"] = normal(rows, columns)
        if config["use_bias"]:
            state[f"{name}.bias"] = normal(rows)

    def norm(name: str) -> None:
        state[f"{name}.weight"], state[f"{name}.bias"] = normal(width, mean=1.0), normal(width)

    state["wte.weight"], state["wpe.weight"] = normal(config["vocab_size"], width), normal(positions, width)
    for layer in range(config["n_layer"]):
        norm(f"h.{layer}.ln_1")
        if masks:
            state[f"h.{layer}.attn.bias"] = torch.ones(positions, positions).tril().view(1, 1, positions, positions)
        for name, rows in _projections(variant, width, kv_width, kv_heads):
            linear(f"h.{layer}.attn.{name}", rows, width)
        linear(f"h.{layer}.attn.c_proj", width, width)
        norm(f"h.{layer}.ln_2")
        linear(f"h.{layer}.mlp.c_fc", inner, width)
        linear(f"h.{layer}.mlp.c_proj", width, inner)
    norm("ln_f")
    if not config["tie_word_embeddings"]:
        state["lm_head.weight"] = normal(config["vocab_size"], width)
    if variant.kv_heads is not None:
        config["n_kv_groups"] = kv_heads

    checkpoint: dict[str, Any] = {
        "step": 0,
        "epoch": 0,
        "tokens_seen": 0,
        "model_state_dict": {f"module.{name}" if ddp else name: tensor for name, tensor in state.items()},
        "model_config": config,
        "train_config": {},
    }
    if optimizer:
        trained = [tensor for name, tensor in state.items() if not name.endswith("attn.bias")]
        moments = {
            i: {"exp_avg": torch.zeros_like(t), "exp_avg_sq": torch.zeros_like(t)} for i, t in enumerate(trained)
        }
        checkpoint["optimizer_state_dict"] = {"state": moments, "param_groups": []}
    return checkpoint


def write_random_checkpoint(
    path: Path,
    variant: str,
    *,
    seed: int = 0,
    std: float = 0.02,
    dtype: torch.dtype = torch.float32,
    optimizer: bool = False,
    masks: bool = False,
    ddp: bool = False,
    **sizes: int | bool,
) -> Path:
    """Save a `random_checkpoint` of the named variant and return where it lies."""
    made = random_checkpoint(
        Variant.parse(variant),
        seed=seed,
        std=std,
        dtype=dtype,
        optimizer=optimizer,
        masks=masks,
        ddp=ddp,
        **sizes,
    )
    torch.save(made, path)
    return path


def _projections(variant: Variant, width: int, kv_width: int, kv_heads: int) -> list[tuple[str, int]]:
    """Names and rows of a class's attention projections, as its training script declares them."""
    shares_heads = kv_width != width
    match variant.sharing:
        case Sharing.QKV if shares_heads:
            return [("c_q", width), ("c_kv", 2 * kv_width)]
        case Sharing.QKV:
            return [("c_attn", 3 * width)]
        case Sharing.Q_IS_K:
            return [("c_kv", 2 * width)]
        case Sharing.ALL:
            return [("c_k", width)]
        case Sharing.K_IS_V | Sharing.QVV3:
            return [("c_q", width), ("c_kv" if kv_heads == 1 and shares_heads else "c_k", kv_width)]
