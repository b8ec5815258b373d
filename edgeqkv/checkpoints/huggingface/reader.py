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
from edgeqkv.checkpoints.huggingface.latent import latent_attention
from edgeqkv.checkpoints.huggingface.rope import positions, rope
from edgeqkv.checkpoints.tensors import Tensors
from edgeqkv.errors import CheckpointError
from edgeqkv.model.architectures.decoder import Decoder, LayerInputs
from edgeqkv.model.layers import MLP, Activation, Attention, Block, Heads, LayerInput, Linear, Norm, Rope
from edgeqkv.model.model import DecoderConfig, Model, Source
from edgeqkv.model.padded import padded
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
        self.sources = family.sources(config)
        ignored = re.compile(family.ignored)
        # Layers that read another one's keys and values may bring tensors for their own, which their class ignores.
        unused = tuple(
            f"{self.names.layer}.{layer}.{name}."
            for layer in self.sources
            for name in (self.names.k, self.names.v, self.names.k_norm, "self_attn.v_norm")
        )
        self.tensors = Tensors(
            directory,
            {
                name: value
                for name, value in state.items()
                if not ignored.fullmatch(name)
                and not name.removeprefix(f"{self.names.base}.").startswith(unused or ("\0",))
            },
        )
        self.base = f"{self.names.base}." if f"{self.names.base}.{self.names.tokens}.weight" in self.tensors else ""
        self.width = self.size("hidden_size")
        self.inner = self.size(family.inner, default=4 * self.width)
        self.eps = family.epsilon if isinstance(family.epsilon, float) else float(getattr(config, family.epsilon))
        self.layers = self.size("num_hidden_layers")
        self.ropes: dict[str | None, Rope] = {}

    def model(self) -> Model:
        """The model.

        Raises:
            CheckpointError: a tensor is missing, misshapen, or of no use.
        """
        vocabulary = self.size("vocab_size")
        longest, note = positions(self.config)
        tokens = self.tensors.take(f"{self.base}{self.names.tokens}.weight", (vocabulary, self.width))
        table = self._positions(longest)
        tied = bool(self.config.tie_word_embeddings)
        head = self._head(tokens, tied=tied)
        given = self._layer_inputs(vocabulary)
        attentions: list[Attention] = []
        for layer in range(self.layers):
            attentions.append(self._attention(layer, attentions))
        whole = self._in_rows(attentions)
        blocks = tuple(self._block(layer, attention) for layer, attention in enumerate(whole))
        final_norm = self.norm(f"{self.base}{self.names.final_norm}", self.width)
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
            layer_inputs=given,
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

    def _positions(self, count: int) -> Weight | None:
        """The learned position of each token, where there are any."""
        if self.names.positions is None:
            return None
        first = self.family.first_position
        table = self.tensors.take(f"{self.base}{self.names.positions}.weight", (first + count, self.width))
        return table.rows(first, first + count) if first else table

    def _block(self, layer: int, attention: Attention) -> Block:
        names, prefix = self.names, self._prefix(layer)
        return Block(
            attention_norm=self._layer_norm(prefix, names.attention_norm),
            attention=attention,
            mlp_norm=self._layer_norm(prefix, names.mlp_norm),
            mlp=self._mlp(layer, prefix),
            attention_post_norm=self._layer_norm(prefix, names.attention_post_norm),
            mlp_post_norm=self._layer_norm(prefix, names.mlp_post_norm),
            residual_scale=self.family.residual_scale(self.config),
            output_scale=self._number(prefix, names.output_scale),
            input=self._input(prefix),
        )

    def _heads(self, layer: int) -> Heads:
        config = self.family.layer_config(self.config, layer)
        query = self.size("num_attention_heads", config=config)
        kv = self.size("num_key_value_heads", default=query, config=config)
        if query % kv:
            raise CheckpointError(f"{query} query heads in {self.path} do not divide among {kv} KV heads")
        return Heads(query, kv, self.size("head_dim", default=self.width // query, config=config))

    def _prefix(self, layer: int) -> str:
        return f"{self.base}{self.names.layer}.{layer}."

    def _in_rows(self, attentions: list[Attention]) -> list[Attention]:
        """The layers with one row for keys and values where that is smaller than the two."""
        done: list[Attention] = []
        for each in attentions:
            done.append(padded(each, None if each.source is None else done[each.source]))
        return done

    def _attention(self, layer: int, before: list[Attention]) -> Attention:
        names, family, prefix = self.names, self.family, self._prefix(layer)
        if family.latent:
            return latent_attention(self, layer, prefix)
        heads = self._heads(layer)
        rows = (heads.query * heads.dim, heads.kv * heads.dim, heads.kv * heads.dim)
        source = self.sources.get(layer)
        if source is not None:
            q, k, v = (
                self.linear(f"{prefix}{names.q}", rows[0], self.width, family.qkv_bias),
                before[source].k,
                before[source].v,
            )
        elif names.qkv is not None:
            q, k, v = self._fused(f"{prefix}{names.qkv}", rows, family.qkv_bias)
        else:
            own = (names.q, names.k) if family.merged(self.config, layer) else (names.q, names.k, names.v)
            q, k, *other = (
                self.linear(f"{prefix}{name}", count, self.width, family.qkv_bias)
                for name, count in zip(own, rows, strict=False)
            )
            v = other[0] if other else k
        if source is None and not family.joint_norms and _are_equal(k, v):
            v = k
        q_norm = k_norm = joint = None
        if names.q_norm is not None and names.k_norm is not None:
            sizes = rows[:2] if family.joint_norms else (heads.dim, heads.dim)
            of_queries = self.norm(f"{prefix}{names.q_norm}", sizes[0])
            shared = None if source is None else before[source].k_norm
            of_keys = self.norm(f"{prefix}{names.k_norm}", sizes[1]) if shared is None else shared
            if family.joint_norms:
                joint = (of_queries, of_keys)
            else:
                q_norm, k_norm = of_queries, of_keys
        return Attention(
            q,
            k,
            v,
            out=self.linear(f"{prefix}{names.out}", self.width, rows[0], family.out_bias),
            heads=heads,
            scale=family.attention_scale(self.config, heads.dim, layer),
            causal=True,
            rope=self.rope(layer, heads.dim) if family.rope(self.config, layer) else None,
            window=self._window if family.window(self.config, layer) else None,
            q_norm=q_norm,
            k_norm=k_norm,
            softcap=self._cap("attn_logit_softcapping"),
            v_norm=Norm("rms", None, None, self.eps) if family.value_norm else None,
            joint_norms=joint,
            source=source,
        )

    def _layer_inputs(self, vocabulary: int) -> LayerInputs | None:
        """What the layers' own inputs are made of, where the config asks for them."""
        if self._input_channels is None:
            return None
        channels, base, rows = self._input_channels, self.base, self.size("vocab_size_per_layer_input")
        if rows < vocabulary:
            raise CheckpointError(
                f"'vocab_size_per_layer_input' in {self.path} is {rows}: some of {vocabulary} tokens have no inputs"
            )
        return LayerInputs(
            table=self.tensors.take(f"{base}embed_tokens_per_layer.weight", (rows, self.layers * channels)),
            table_scale=channels**0.5,
            projection=self.linear(f"{base}per_layer_model_projection", self.layers * channels, self.width, False),
            projection_scale=self.width**-0.5,
            norm=self.norm(f"{base}per_layer_projection_norm", channels),
            channels=channels,
        )

    def _input(self, prefix: str) -> LayerInput | None:
        if self._input_channels is None:
            return None
        return LayerInput(
            gate=self.linear(f"{prefix}per_layer_input_gate", self._input_channels, self.width, False),
            out=self.linear(f"{prefix}per_layer_projection", self.width, self._input_channels, False),
            norm=self.norm(f"{prefix}post_per_layer_input_norm", self.width),
            activation=self.activation,
        )

    @cached_property
    def _input_channels(self) -> int | None:
        """Channels of each layer's own input."""
        key = "hidden_size_per_layer_input"
        return self.size(key) if key in self.family.keys and getattr(self.config, key) else None

    def _mlp(self, layer: int, prefix: str) -> MLP:
        names, bias = self.names, self.family.mlp_bias
        inner = self.inner * self.family.inner_multiple(self.config, layer)
        gate: Linear | None
        if names.gate_up is not None:
            gate, up = self._fused(f"{prefix}{names.gate_up}", (inner, inner), bias)
        else:
            gate = None if names.gate is None else self.linear(f"{prefix}{names.gate}", inner, self.width, bias)
            up = self.linear(f"{prefix}{names.up}", inner, self.width, bias)
        return MLP(gate, up, self.linear(f"{prefix}{names.down}", self.width, inner, bias), self.activation)

    @cached_property
    def activation(self) -> Activation:
        """What all MLPs compute."""
        name = getattr(self.config, self.family.activation)
        if name not in _ACTIVATIONS:
            raise CheckpointError(
                f"'{self.family.activation}' in {self.path} is {name!r}; edgeqkv knows {', '.join(_ACTIVATIONS)}"
            )
        return _ACTIVATIONS[name]

    @cached_property
    def _window(self) -> int | None:
        key = self.family.window_size
        return None if getattr(self.config, key, None) is None else self.size(key)

    def rope(self, layer: int, dim: int) -> Rope:
        """Layers of one type have one."""
        types = getattr(self.config, "layer_types", None)
        kind = types[layer] if types else None
        if kind not in self.ropes:
            self.ropes[kind] = rope(self.family.layer_config(self.config, layer), self.family, dim, kind)
        return self.ropes[kind]

    def linear(self, name: str, rows: int, columns: int, bias: str | bool) -> Linear:
        shape = (columns, rows) if self.family.transposed else (rows, columns)
        weight = self.tensors.take(f"{name}.weight", shape)
        if self.family.transposed:
            weight = Weight(weight.name, weight.tensor.T)
        biased = bias if isinstance(bias, bool) else bool(getattr(self.config, bias, False))
        return Linear(weight, self.tensors.take(f"{name}.bias", (rows,)) if biased else None)

    def _fused(self, name: str, rows: tuple[int, ...], bias: str | bool) -> list[Linear]:
        """A fused projection as its parts: row ranges of one tensor, views all the same."""
        fused = self.linear(name, sum(rows), self.width, bias)
        parts, start = [], 0
        for count in rows:
            stop = start + count
            parts.append(
                Linear(fused.weight.rows(start, stop), None if fused.bias is None else fused.bias.rows(start, stop))
            )
            start = stop
        return parts

    def _layer_norm(self, prefix: str, name: str | None) -> Norm | None:
        return None if name is None else self.norm(f"{prefix}{name}", self.width)

    def norm(self, name: str, size: int) -> Norm:
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
                f"{self.path} ties the head to the embedding, but '{name}' differs from '{tokens.name}'; set "
                f"tie_word_embeddings to false if they were trained apart"
            )
        return tokens

    def _cap(self, key: str) -> float | None:
        value = getattr(self.config, key, None) if key in self.family.keys else None
        return None if value is None else float(value)

    def _number(self, prefix: str, name: str | None) -> float:
        """A tensor of one number; 1 where the family has none."""
        return 1.0 if name is None else float(self.tensors.take(f"{prefix}{name}", (1,)).tensor)

    def size(self, key: str, default: int | None = None, config: Config | None = None) -> int:
        value: Any = getattr(self.config if config is None else config, key, None)
        value = default if value is None else value
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise CheckpointError(f"'{key}' in {self.path} is {value!r}, not a size")
        return value

    @property
    def path(self) -> Path:
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
    own = (block.attention.merged for block in blocks if block.attention.source is None)
    ((merged, _),) = Counter(own).most_common(1)
    return Sharing.K_IS_V if merged else Sharing.QKV
