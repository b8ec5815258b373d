"""The skeleton that all families share: a config and tensors in, a `Model` out."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import torch

from edgeqkv.checkpoints.huggingface.family import Config, Family
from edgeqkv.checkpoints.huggingface.rope import positions, rope
from edgeqkv.checkpoints.tensors import Tensors
from edgeqkv.errors import CheckpointError
from edgeqkv.model.architectures.decoder import Decoder
from edgeqkv.model.layers import MLP, Activation, Attention, Block, Heads, Linear, Norm, Rope
from edgeqkv.model.model import DecoderConfig, Model, Source
from edgeqkv.model.variants import Sharing, Variant
from edgeqkv.model.weights import Weight

__all__ = ["FORMAT", "Reader"]

FORMAT: Final = "huggingface"

_ACTIVATIONS: Final[Mapping[str, Activation]] = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}


class Reader:
    """Takes every tensor exactly once, by the family's name for it and the shape that the config asks for."""

    def __init__(self, directory: Path, config: Config, family: Family, state: Mapping[str, torch.Tensor]) -> None:
        self.directory, self.config, self.family, self.names = directory, config, family, family.names
        ignored = re.compile(family.ignored)
        self.tensors = Tensors(directory, {name: value for name, value in state.items() if not ignored.fullmatch(name)})
        self.base = f"{self.names.base}." if f"{self.names.base}.{self.names.tokens}.weight" in self.tensors else ""
        self.width = self._size("hidden_size")
        self.inner = self._size(family.inner, default=4 * self.width)
        self.eps = float(getattr(config, family.epsilon))
        self.layers = self._size("num_hidden_layers")
        self.ropes: dict[str | None, Rope] = {}

    def model(self) -> Model:
        """The model.

        Raises:
            CheckpointError: a tensor is missing, misshapen, or of no use.
        """
        vocabulary = self._size("vocab_size")
        longest, note = positions(self.config)
        tokens = self.tensors.take(f"{self.base}{self.names.tokens}.weight", (vocabulary, self.width))
        places = self.names.positions
        table = None if places is None else self.tensors.take(f"{self.base}{places}.weight", (longest, self.width))
        tied = bool(self.config.tie_word_embeddings)
        head = self._head(tokens, tied=tied)
        blocks = tuple(self._block(layer) for layer in range(self.layers))
        final_norm = self._norm(f"{self.base}{self.names.final_norm}", self.width)
        self.tensors.check_all_taken(hint=f"num_hidden_layers in its config is {self.layers}")
        network = Decoder(
            tokens,
            table,
            blocks,
            final_norm,
            head,
            embedding_scale=self.family.embedding_scale(self.config),
            logit_scale=self.family.logit_scale(self.config),
            logit_softcap=self._cap("final_logit_softcapping"),
        )
        heads = blocks[0].attention.heads
        return Model(
            variant=Variant(_sharing(blocks), heads.kv if heads.kv < heads.query else None),
            config=DecoderConfig(
                layers=self.layers,
                hidden_size=self.width,
                heads=heads.query,
                kv_heads=heads.kv,
                head_dim=heads.dim,
                intermediate_size=self.inner,
                vocab_size=vocabulary,
                positions=longest,
                norm_eps=self.eps,
                tied_head=tied,
                computed_positions=table is None,
            ),
            network=network,
            source=Source(self.directory, FORMAT, self.family.model_class),
            notes=(note,) if note else (),
        )

    def _block(self, layer: int) -> Block:
        names, prefix = self.names, f"{self.base}{self.names.layer}.{layer}."
        return Block(
            attention_norm=self._layer_norm(prefix, names.attention_norm),
            attention=self._attention(layer, prefix),
            mlp_norm=self._layer_norm(prefix, names.mlp_norm),
            mlp=self._mlp(prefix),
            attention_post_norm=self._layer_norm(prefix, names.attention_post_norm),
            mlp_post_norm=self._layer_norm(prefix, names.mlp_post_norm),
            residual_scale=self.family.residual_scale(self.config),
            output_scale=self._number(prefix, names.output_scale),
        )

    def _heads(self, layer: int) -> Heads:
        config = self.family.layer_config(self.config, layer)
        query = self._size("num_attention_heads", config=config)
        kv = self._size("num_key_value_heads", default=query, config=config)
        if query % kv:
            raise CheckpointError(f"{query} query heads in {self._path} do not divide among {kv} KV heads")
        return Heads(query, kv, self._size("head_dim", default=self.width // query, config=config))

    def _attention(self, layer: int, prefix: str) -> Attention:
        names, family, heads = self.names, self.family, self._heads(layer)
        rows = (heads.query * heads.dim, heads.kv * heads.dim, heads.kv * heads.dim)
        if names.qkv is not None:
            q, k, v = self._fused(f"{prefix}{names.qkv}", rows, family.qkv_bias)
        else:
            own = (names.q, names.k) if family.merged(self.config, layer) else (names.q, names.k, names.v)
            q, k, *other = (
                self._linear(f"{prefix}{name}", count, self.width, family.qkv_bias)
                for name, count in zip(own, rows, strict=False)
            )
            v = other[0] if other else k
        if not family.joint_norms and _are_equal(k, v):
            v = k
        q_norm = k_norm = joint = None
        if names.q_norm is not None and names.k_norm is not None:
            sizes = rows[:2] if family.joint_norms else (heads.dim, heads.dim)
            of_queries, of_keys = (
                self._norm(f"{prefix}{name}", size)
                for name, size in zip((names.q_norm, names.k_norm), sizes, strict=True)
            )
            if family.joint_norms:
                joint = (of_queries, of_keys)
            else:
                q_norm, k_norm = of_queries, of_keys
        return Attention(
            q,
            k,
            v,
            out=self._linear(f"{prefix}{names.out}", self.width, rows[0], family.out_bias),
            heads=heads,
            scale=family.attention_scale(self.config, heads.dim, layer),
            causal=True,
            rope=self._rope(layer, heads.dim) if family.rope(self.config, layer) else None,
            window=self._window if family.window(self.config, layer) else None,
            q_norm=q_norm,
            k_norm=k_norm,
            softcap=self._cap("attn_logit_softcapping"),
            v_norm=Norm("rms", None, None, self.eps) if family.value_norm else None,
            joint_norms=joint,
        )

    def _mlp(self, prefix: str) -> MLP:
        names, bias = self.names, self.family.mlp_bias
        gate: Linear | None
        if names.gate_up is not None:
            gate, up = self._fused(f"{prefix}{names.gate_up}", (self.inner, self.inner), bias)
        else:
            gate = None if names.gate is None else self._linear(f"{prefix}{names.gate}", self.inner, self.width, bias)
            up = self._linear(f"{prefix}{names.up}", self.inner, self.width, bias)
        return MLP(gate, up, self._linear(f"{prefix}{names.down}", self.width, self.inner, bias), self.activation)

    @cached_property
    def activation(self) -> Activation:
        """What all MLPs compute."""
        name = getattr(self.config, self.family.activation)
        if name not in _ACTIVATIONS:
            raise CheckpointError(
                f"'{self.family.activation}' in {self._path} is {name!r}; edgeqkv knows {', '.join(_ACTIVATIONS)}"
            )
        return _ACTIVATIONS[name]

    @cached_property
    def _window(self) -> int | None:
        return None if getattr(self.config, "sliding_window", None) is None else self._size("sliding_window")

    def _rope(self, layer: int, dim: int) -> Rope:
        """Layers of one type have one."""
        types = getattr(self.config, "layer_types", None)
        kind = types[layer] if types else None
        if kind not in self.ropes:
            self.ropes[kind] = rope(self.family.layer_config(self.config, layer), self.family, dim, kind)
        return self.ropes[kind]

    def _linear(self, name: str, rows: int, columns: int, bias: str | bool) -> Linear:
        shape = (columns, rows) if self.family.transposed else (rows, columns)
        weight = self.tensors.take(f"{name}.weight", shape)
        if self.family.transposed:
            weight = Weight(weight.name, weight.tensor.T)
        biased = bias if isinstance(bias, bool) else bool(getattr(self.config, bias, False))
        return Linear(weight, self.tensors.take(f"{name}.bias", (rows,)) if biased else None)

    def _fused(self, name: str, rows: tuple[int, ...], bias: str | bool) -> list[Linear]:
        """A fused projection as its parts: row ranges of one tensor, views all the same."""
        fused = self._linear(name, sum(rows), self.width, bias)
        parts, start = [], 0
        for count in rows:
            stop = start + count
            parts.append(
                Linear(fused.weight.rows(start, stop), None if fused.bias is None else fused.bias.rows(start, stop))
            )
            start = stop
        return parts

    def _layer_norm(self, prefix: str, name: str | None) -> Norm | None:
        return None if name is None else self._norm(f"{prefix}{name}", self.width)

    def _norm(self, name: str, size: int) -> Norm:
        scale = self.tensors.take(f"{name}.weight", (size,))
        if self.family.rms:
            return Norm("rms", scale, None, self.eps, self.family.norm_offset)
        return Norm("layer", scale, self.tensors.take(f"{name}.bias", (size,)), self.eps)

    def _head(self, tokens: Weight, *, tied: bool) -> Weight:
        name = f"{self.names.head}.weight"
        if not tied:
            return self.tensors.take(name, tokens.shape)
        if name in self.tensors and not torch.equal(self.tensors.take(name, tokens.shape).tensor, tokens.tensor):
            raise CheckpointError(
                f"{self._path} ties the head to the embedding, but '{name}' differs from '{tokens.name}'; set "
                f"tie_word_embeddings to false if they were trained apart"
            )
        return tokens

    def _cap(self, key: str) -> float | None:
        value = getattr(self.config, key, None) if key in self.family.keys else None
        return None if value is None else float(value)

    def _number(self, prefix: str, name: str | None) -> float:
        """A tensor of one number; 1 where the family has none."""
        return 1.0 if name is None else float(self.tensors.take(f"{prefix}{name}", (1,)).tensor)

    def _size(self, key: str, default: int | None = None, config: Config | None = None) -> int:
        value: Any = getattr(self.config if config is None else config, key, None)
        value = default if value is None else value
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise CheckpointError(f"'{key}' in {self._path} is {value!r}, not a size")
        return value

    @property
    def _path(self) -> Path:
        return self.directory / "config.json"


def _are_equal(one: Linear, other: Linear) -> bool:
    """Whether two projections are one, stored twice. The first rows mostly tell."""
    if (one.bias is None) != (other.bias is None):
        return False
    pairs = [(one.weight, other.weight)]
    pairs += [(one.bias, other.bias)] if one.bias is not None and other.bias is not None else []
    return all(torch.equal(a.tensor[:1], b.tensor[:1]) and torch.equal(a.tensor, b.tensor) for a, b in pairs)


def _sharing(blocks: tuple[Block, ...]) -> Sharing:
    """What most of the layers share."""
    ((merged, _),) = Counter(block.attention.merged for block in blocks).most_common(1)
    return Sharing.K_IS_V if merged else Sharing.QKV
