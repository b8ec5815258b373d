"""Multi-head latent attention (MLA) as DeepSeek's models and their descendants store it, in its absorbed form.

What stores it is a matrix that makes each head's keys and values of a latent vector. Here the matrix is taken apart:
what makes keys is turned round, to be applied to queries, and what makes values is applied to what attention mixed.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Final, Protocol

import torch

from edgeqkv.checkpoints.huggingface.family import Config, Family
from edgeqkv.checkpoints.tensors import Tensors
from edgeqkv.errors import CheckpointError
from edgeqkv.model.layers import Attention, Heads, LatentRows, Linear, Norm, Rope
from edgeqkv.model.weights import Weight

__all__ = ["KEYS", "latent_attention", "mixes_experts"]

KEYS: Final = frozenset(
    {
        "first_k_dense_replace",
        "kv_lora_rank",
        "n_routed_experts",
        "q_lora_rank",
        "qk_head_dim",
        "qk_nope_head_dim",
        "qk_rope_head_dim",
        "rope_interleave",
        "v_head_dim",
    }
)
"""What these families' configs have beyond others'."""

_EPS: Final = 1e-6
"""Of the normalizations inside attention, which the originals do not configure."""


class Reader(Protocol):
    """What is asked of whoever reads a model: its config, and its tensors by name and size."""

    config: Config
    family: Family
    tensors: Tensors
    width: int

    @property
    def path(self) -> Path: ...
    def size(self, key: str, default: int | None = None) -> int: ...
    def linear(self, name: str, rows: int, columns: int, bias: str | bool) -> Linear: ...
    def rope(self, layer: int, dim: int) -> Rope: ...


def mixes_experts(config: Config) -> str:
    """What of a model's layers is not exported, if any; its first layers may be dense."""
    dense = getattr(config, "first_k_dense_replace", None)
    layers = config.num_hidden_layers
    if dense is None or dense >= layers:
        return ""
    return (
        f"{layers - dense} of its {layers} layers are mixtures of experts (first_k_dense_replace is {dense}), which "
        f"edgeqkv does not export; its attention would be, in models whose layers are dense"
    )


def latent_attention(reader: Reader, layer: int, prefix: str) -> Attention:
    """The attention of a layer whose tensors' names begin so.

    Raises:
        CheckpointError: a tensor is missing or misshapen, or its heads share what MLA's do not.
    """
    config, family = reader.config, reader.family
    at = f"{prefix}self_attn."
    heads = reader.size("num_attention_heads")
    if reader.size("num_key_value_heads", default=heads) != heads:
        raise CheckpointError(
            f"'num_key_value_heads' in {reader.path} is {config.num_key_value_heads}, and 'num_attention_heads' is "
            f"{heads}: heads of latent attention share one row, and nothing else"
        )
    latent, turning = reader.size("kv_lora_rank"), reader.size("qk_rope_head_dim")
    plain, values = reader.size("qk_nope_head_dim"), reader.size("v_head_dim")
    down, given = None, reader.width
    if getattr(config, "q_lora_rank", None) is not None:
        given = reader.size("q_lora_rank")
        down = (
            reader.linear(f"{at}q_a_proj", given, reader.width, "attention_bias"),
            _norm(reader, f"{at}q_a_layernorm", given),
        )
    queries = reader.linear(f"{at}{'q_b_proj' if down else 'q_proj'}", heads * (plain + turning), given, False)
    both = reader.linear(f"{at}kv_a_proj_with_mqa", latent + turning, reader.width, "attention_bias")
    order = _halves(turning) if getattr(config, "rope_interleave", family.interleaved) else list(range(turning))
    made = _part(both, "latent", slice(0, latent))
    absorbed, expanded = _apart(reader.linear(f"{at}kv_b_proj", heads * (plain + values), latent, False), heads, plain)
    rope = reader.rope(layer, turning)
    return Attention(
        q=_of_heads(queries, heads, "plain", list(range(plain))),
        k=made,
        v=made,
        out=reader.linear(f"{at}o_proj", reader.width, heads * values, family.out_bias),
        heads=Heads(heads, 1, latent + turning),
        scale=_scale(config, plain + turning),
        causal=True,
        rows=LatentRows(
            rope=rope,
            q_down=down,
            q_rotated=_of_heads(queries, heads, "rotated", [plain + channel for channel in order]),
            k_rotated=_part(both, "rotated", [latent + channel for channel in order]),
            norm=_norm(reader, f"{at}kv_a_layernorm", latent),
            absorbed=absorbed,
            expanded=expanded,
        ),
    )


def _scale(config: Config, dim: int) -> float:
    """YaRN's factor counts twice, in these models, where they ask for it: once for queries, once for keys."""
    rules, scale = config.rope_parameters, dim**-0.5
    share = rules.get("mscale_all_dim", 0)
    if rules.get("rope_type", "default") == "default" or not share or rules["factor"] <= 1:
        return float(scale)
    return float(scale * (0.1 * share * math.log(rules["factor"]) + 1) ** 2)


def _norm(reader: Reader, name: str, size: int) -> Norm:
    return Norm("rms", reader.tensors.take(f"{name}.weight", (size,)), None, _EPS)


def _halves(count: int) -> list[int]:
    """Pairs of neighbours as pairs half of the channels apart: queries and keys alike, so that no product changes."""
    return [*range(0, count, 2), *range(1, count, 2)]


def _part(linear: Linear, name: str, rows: slice | list[int]) -> Linear:
    """Some rows of a projection."""

    def part(weight: Weight) -> Weight:
        return Weight(f"{weight.name} {name}", weight.tensor[rows])

    return Linear(part(linear.weight), None if linear.bias is None else part(linear.bias))


def _of_heads(linear: Linear, heads: int, name: str, rows: list[int]) -> Linear:
    """Some rows of each head of a projection that has no bias."""
    weight = linear.weight
    tensor = weight.tensor.view(heads, -1, weight.shape[1])[:, rows]
    return Linear(Weight(f"{weight.name} {name}", tensor.reshape(-1, weight.shape[1])))


def _apart(linear: Linear, heads: int, plain: int) -> tuple[tuple[Linear, ...], tuple[Linear, ...]]:
    """What makes each head's keys of the latent vector, turned round, and what makes its values."""
    name = linear.weight.name

    def made(what: str, tensors: list[torch.Tensor]) -> tuple[Linear, ...]:
        return tuple(Linear(Weight(f"{name} {what} {head}", tensor)) for head, tensor in enumerate(tensors))

    by_head = linear.weight.tensor.view(heads, -1, linear.weight.shape[1])
    return (
        made("keys", [each[:plain].T for each in by_head]),
        made("values", [each[plain:] for each in by_head]),
    )
