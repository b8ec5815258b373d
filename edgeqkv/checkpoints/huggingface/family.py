"""What tells one family of Hugging Face models from another: the names of its tensors, and where its rules differ.

Everything else is `edgeqkv.checkpoints.huggingface.reader`, the skeleton that all of them share.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

__all__ = ["Config", "Family", "Names", "is_sliding"]

Config = Any
"""A config of transformers', whose class belongs to the family."""


@dataclass(frozen=True)
class Names:
    """Where a family keeps its tensors, without ``.weight`` and ``.bias``; None where it has none.

    ``base`` is the part that a model with a head puts before those without; a layer's are below ``layer``. Families
    that fuse projections have ``qkv`` and ``gate_up`` in place of the others.
    """

    base: str = "model"
    tokens: str = "embed_tokens"
    positions: str | None = None
    layer: str = "layers"
    final_norm: str = "norm"
    head: str = "lm_head"
    attention_norm: str | None = "input_layernorm"
    attention_post_norm: str | None = None
    mlp_norm: str | None = "post_attention_layernorm"
    mlp_post_norm: str | None = None
    q: str = "self_attn.q_proj"
    k: str = "self_attn.k_proj"
    v: str = "self_attn.v_proj"
    qkv: str | None = None
    out: str = "self_attn.o_proj"
    q_norm: str | None = None
    k_norm: str | None = None
    gate: str | None = "mlp.gate_proj"
    up: str = "mlp.up_proj"
    gate_up: str | None = None
    down: str = "mlp.down_proj"
    output_scale: str | None = None


LLAMA: Final = Names()
"""What Llama called them, and most others after it."""


def is_sliding(config: Config, layer: int) -> bool:
    """Whether a layer is one of those with a window, by the config's list of what its layers are."""
    types: list[str] | None = getattr(config, "layer_types", None)
    return types is not None and types[layer] == "sliding_attention"


@dataclass(frozen=True)
class Family:
    """One family. What a bias depends on is the name of a key of its config, or what is so in all of its models.

    Attributes:
        title: its name for people.
        model_class: the class of transformers that is its original.
        names: where its tensors are.
        keys: what its config has that other families' have not and that is read here.
        harmless: the same of what makes no difference to the logits.
        ignored: a pattern of tensors' names that are no weights.
        rms: whether its normalizations are of that kind, rather than of layers' means and variances.
        norm_offset: what is added to their scales.
        epsilon: which key says what is added to a variance, or that.
        inner: which one says how wide its MLP is.
        activation: and which one what its MLP computes.
        unsupported: keys that ask for what edgeqkv does not do, and what that is.
        qkv_bias, out_bias, mlp_bias: whether projections have one.
        transposed: whether its linear layers are stored as ``[in, out]``.
        joint_norms: whether queries and keys are normalized before they are split into heads.
        layer_config: what the config says of one layer.
        merged: whether a layer has one projection for keys and values.
        value_norm: whether each head of values is normalized, without a scale.
        first_position: the row of the table of learned positions that is the first token's.
        rope: whether a layer has rotary positions.
        window: whether a layer has the window that the config tells.
        window_size: which key says how many positions that is.
        attention_scale: what a product of query and key is multiplied by, for a head's dim and a layer.
        embedding_scale, residual_scale, logit_scale: see `Decoder` and `Block`.
        sources: which layers read the keys and values of which others.
        inner_multiple: how many times as wide as the config tells a layer's MLP is.
        latent: whether attention is latent (`edgeqkv.checkpoints.huggingface.latent`).
        interleaved: whether such attention rotates pairs of neighbours where its config does not tell.
        refused: what of a model of the family is not exported; empty if it is.
    """

    title: str
    model_class: str
    names: Names = LLAMA
    keys: frozenset[str] = frozenset()
    harmless: frozenset[str] = frozenset()
    ignored: str = r".*\.rotary_emb\.inv_freq"
    rms: bool = True
    norm_offset: float = 0.0
    epsilon: str | float = "rms_norm_eps"
    inner: str = "intermediate_size"
    activation: str = "hidden_act"
    unsupported: Mapping[str, str] = field(default_factory=dict)
    qkv_bias: str | bool = False
    out_bias: str | bool = False
    mlp_bias: str | bool = False
    transposed: bool = False
    joint_norms: bool = False
    layer_config: Callable[[Config, int], Config] = lambda config, layer: config
    merged: Callable[[Config, int], bool] = lambda config, layer: False
    value_norm: bool = False
    first_position: int = 0
    rope: Callable[[Config, int], bool] = lambda config, layer: True
    window: Callable[[Config, int], bool] = is_sliding
    window_size: str = "sliding_window"
    attention_scale: Callable[[Config, int, int], float] = lambda config, dim, layer: dim**-0.5
    embedding_scale: Callable[[Config], float] = lambda config: 1.0
    residual_scale: Callable[[Config], float] = lambda config: 1.0
    logit_scale: Callable[[Config], float] = lambda config: 1.0
    sources: Callable[[Config], Mapping[int, int]] = lambda config: {}
    inner_multiple: Callable[[Config, int], int] = lambda config, layer: 1
    latent: bool = False
    interleaved: bool = True
    refused: Callable[[Config], str] = lambda config: ""
