"""The language models' format: the dict that the paper's training scripts save.

``{model_state_dict, model_config, train_config, step, epoch, tokens_seen, optimizer_state_dict | val_metrics}``,
from the authors' public code (github.com/Brainchip-Inc/Do-Transformers-Need-3-Projections). Eight classes, told
apart by the names and shapes of their projections, because the config does not say which class it belongs to:

    ===================  =================  ======================================
    class                variant            attention weights besides ``c_proj``
    ===================  =================  ======================================
    GPT                  qkv                ``c_attn [3d, d]``
    GPT_KV               q=k-v              ``c_kv [2d, d]``: k, v; q is k
    GPT_QKV_KEqualsV     q-k=v              ``c_q``, ``c_k [d, d]``; v is k
    GPT_K                q=k=v              ``c_k [d, d]``
    GPT_GQA, GPT_MQA     qkv+gqaN, +mqa     ``c_q``, ``c_kv [2·N·hd, d]``: k, v
    GPT_Q_GQA            q-k=v+gqaN         ``c_q``, ``c_k [N·hd, d]``
    GPT_QMQA             q-k=v+mqa          ``c_q``, ``c_kv [hd, d]``: one tensor
    ===================  =================  ======================================

What no class of theirs can be, a config says under ``edgeqkv``, which no other program reads:

    ``layers``      each layer's variant, where they differ; a layer's tensors are those of its variant's class
    ``activation``  of the MLPs, where it is not ``gelu`` (the exact one): ``gelu_tanh``, ``relu`` or ``silu``
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final, get_args

import torch

from edgeqkv.checkpoints.archive import Archive, numbers_of
from edgeqkv.checkpoints.config import BLOCKS, Config
from edgeqkv.checkpoints.foreign import refuse_hub_model
from edgeqkv.checkpoints.tensors import Tensors
from edgeqkv.errors import CheckpointError
from edgeqkv.model.architectures.decoder import Decoder
from edgeqkv.model.layers import MLP, Activation, Attention, Block, Heads, Linear, Norm
from edgeqkv.model.model import DecoderConfig, Model, Source
from edgeqkv.model.variants import Variant
from edgeqkv.model.weights import Weight
from edgeqkv.reading import shortened, shown

__all__ = ["ACTIVATIONS", "EXTENSION", "matches", "read"]

EXTENSION: Final = "edgeqkv"
"""The key of a config under which stands what no class of the authors' can be."""

ACTIVATIONS: Final[tuple[Activation, ...]] = get_args(Activation)
"""What MLPs may compute; the first is what they do where nothing is said."""

_MASK = re.compile(r"h\.\d+\.attn\.(bias|masked_bias)")  # a saved causal mask, not a bias


def matches(archive: Archive) -> bool:
    """Whether the archive is in this format."""
    return "model_state_dict" in archive.contents and "model_config" in archive.contents


def read(archive: Archive, heads: int | None = None) -> Model:
    """Read the model. ``heads`` is for files that do not tell; this one does.

    Raises:
        CheckpointError: a tensor or a config value is missing, misshapen or contradicts another.
    """
    config = archive.entry("model_config")
    refuse_hub_model(archive.path, config)
    state = {name: tensor for name, tensor in archive.state_dict().items() if not _MASK.fullmatch(name)}
    return _Reader(archive, Config(archive.path, "model_config", config), state).model()


class _Reader:
    """Takes every tensor exactly once, by name and expected shape, and says what does not fit."""

    def __init__(self, archive: Archive, config: Config, state: Mapping[str, torch.Tensor]) -> None:
        self.archive = archive
        self.config = config
        self.tensors = Tensors(archive.path, state)
        self.width = config.size("n_embd")
        self.heads = config.size("n_head")
        self.layers = config.size("n_layer")
        if self.width % self.heads:
            raise CheckpointError(
                f"impossible head count in {archive.path}: n_head {self.heads} does not divide n_embd {self.width}"
            )
        self.head_dim = self.width // self.heads
        self.inner = config.size("n_inner", default=4 * self.width)
        self.eps = config.fraction("layer_norm_epsilon", default=1e-5)
        self.activation, self.variants = self._extension()

    def model(self) -> Model:
        vocabulary, positions = self.config.size("vocab_size"), self.config.size("n_positions")
        token_table = self.tensors.take("wte.weight", (vocabulary, self.width))
        position_table = self.tensors.take("wpe.weight", (positions, self.width))
        tied = self.config.flag("tie_word_embeddings", default="lm_head.weight" not in self.tensors)
        if tied:
            self._drop_copy_of(token_table, "lm_head.weight")
        head = token_table if tied else self.tensors.take("lm_head.weight", (vocabulary, self.width))
        read = [self._block(f"h.{index}.") for index in range(self.layers)]
        final_norm = self._norm("ln_f")
        self.tensors.check_all_taken(hint=f"n_layer in its config is {self.layers}")

        found = [block.attention.variant for block, _ in read]
        self._check_layers(found)
        variant = Counter(found).most_common(1)[0][0]
        kv_heads = variant.kv_heads_of(self.heads)
        notes = () if self.variants else self._notes(kv_heads)
        self.config.check_known(self._computed(positions, kv_heads, biased=read[0][0].mlp.up.bias is not None))
        return Model(
            variant=variant,
            config=DecoderConfig(
                layers=self.layers,
                hidden_size=self.width,
                heads=self.heads,
                kv_heads=kv_heads,
                head_dim=self.head_dim,
                intermediate_size=self.inner,
                vocab_size=vocabulary,
                positions=positions,
                norm_eps=self.eps,
                tied_head=head is token_table,
            ),
            network=Decoder(token_table, position_table, tuple(block for block, _ in read), final_norm, head),
            source=Source(
                self.archive.path,
                "language-model",
                " and ".join(dict.fromkeys(model_class for _, model_class in read)),
                self._training(),
            ),
            notes=notes,
        )

    def _extension(self) -> tuple[Activation, tuple[str, ...]]:
        """The activation of the MLPs, and the variant of each layer, where they may differ."""
        told = self.config.get(EXTENSION)
        if told is None:
            return ACTIVATIONS[0], ()
        if not isinstance(told, Mapping):
            raise CheckpointError(f"'{EXTENSION}' in {self.config.place} is {shown(told)}, not a dict")
        own = Config(self.archive.path, f"'{EXTENSION}' in the model_config", told)
        activation, layers = own.get("activation"), own.get("layers")
        own.check_known({})
        known = [each for each in ACTIVATIONS if each == activation] if activation is not None else ACTIVATIONS
        if not known:
            raise CheckpointError(
                f"'activation' in {own.place} is {shown(activation)}; edgeqkv knows {', '.join(ACTIVATIONS)}"
            )
        if layers is None:
            return known[0], ()
        if not isinstance(layers, Sequence) or isinstance(layers, str) or len(layers) != self.layers:
            raise CheckpointError(f"'layers' in {own.place} is {shown(layers)}, not a list of {self.layers} variants")
        return known[0], tuple(each if isinstance(each, str) else shown(each) for each in layers)

    def _check_layers(self, found: Sequence[Variant]) -> None:
        """Hold the layers' tensors against what the config says of them: that they are alike, or what each is."""
        told = self.variants or (str(found[0]),) * len(found)
        for layer, (variant, name) in enumerate(zip(found, told, strict=True)):
            if str(variant) != name:
                raise CheckpointError(
                    f"layer {layer} of {self.archive.path} is {variant}, and its config says that it is "
                    f"{shortened(name)}"
                    if self.variants
                    else f"layer {layer} of {self.archive.path} is {variant}, layer 0 is {name}; edgeqkv reads models "
                    f"whose layers differ if their config lists each one's variant ('layers' under '{EXTENSION}')"
                )

    def _block(self, prefix: str) -> tuple[Block, str]:
        norm = self._norm(f"{prefix}ln_1")
        attention, model_class = self._attention(f"{prefix}attn.")
        mlp = MLP(
            gate=None,
            up=self._linear(f"{prefix}mlp.c_fc", self.inner, self.width),
            down=self._linear(f"{prefix}mlp.c_proj", self.width, self.inner),
            activation=self.activation,
        )
        return Block(norm, attention, self._norm(f"{prefix}ln_2"), mlp), model_class

    def _attention(self, prefix: str) -> tuple[Attention, str]:
        names = ("c_attn", "c_q", "c_k", "c_kv")
        found = tuple(name for name in names if f"{prefix}{name}.weight" in self.tensors)
        d = self.width
        if found == ("c_attn",):
            q, k, v = self._split(f"{prefix}c_attn", (d, d, d))
            model_class = "GPT"
        elif found == ("c_kv",):
            k, v = self._split(f"{prefix}c_kv", (d, d))
            q, model_class = k, "GPT_KV"
        elif found == ("c_k",):
            q = k = v = self._linear(f"{prefix}c_k", d, d)
            model_class = "GPT_K"
        elif found == ("c_q", "c_k"):
            q = self._linear(f"{prefix}c_q", d, d)
            rows = self._kv_rows(f"{prefix}c_k", multiple=1)
            k = v = self._linear(f"{prefix}c_k", rows, d)
            model_class = "GPT_QKV_KEqualsV" if rows == d else "GPT_Q_GQA"
        elif found == ("c_q", "c_kv"):
            q = self._linear(f"{prefix}c_q", d, d)
            if self.tensors.rows(f"{prefix}c_kv.weight") == self.head_dim:
                k = v = self._linear(f"{prefix}c_kv", self.head_dim, d)
                model_class = "GPT_QMQA"
            else:
                rows = self._kv_rows(f"{prefix}c_kv", multiple=2) // 2
                k, v = self._split(f"{prefix}c_kv", (rows, rows))
                model_class = "GPT_MQA" if rows == self.head_dim else "GPT_GQA"
        else:
            raise CheckpointError(
                f"the attention of {self.archive.path} is of no known class: '{prefix}' has the projections "
                f"{', '.join(found) or 'none'}; known are c_attn, c_kv, c_k, c_q + c_k and c_q + c_kv"
            )
        heads = Heads(query=self.heads, kv=k.weight.shape[0] // self.head_dim, dim=self.head_dim)
        out = self._linear(f"{prefix}c_proj", d, d)
        return Attention(q, k, v, out, heads, scale=self.head_dim**-0.5, causal=True), model_class

    def _kv_rows(self, name: str, multiple: int) -> int:
        """Rows of a KV projection, which say how many KV heads there are; the config may be silent or wrong."""
        rows = self.tensors.rows(f"{name}.weight")
        kv_heads, rest = divmod(rows, multiple * self.head_dim)
        if rest or not kv_heads or self.heads % kv_heads:
            raise CheckpointError(
                f"'{name}.weight' in {self.archive.path} has {rows} rows, which is no whole number of KV heads of "
                f"{self.head_dim} that {self.heads} query heads (n_head) can share"
            )
        return rows

    def _linear(self, name: str, rows: int, columns: int) -> Linear:
        weight = self.tensors.take(f"{name}.weight", (rows, columns))
        biased = self.config.flag("use_bias", default=f"{name}.bias" in self.tensors)
        return Linear(weight, self.tensors.take(f"{name}.bias", (rows,)) if biased else None)

    def _split(self, name: str, rows: tuple[int, ...]) -> list[Linear]:
        """A fused projection as its parts: row ranges of one tensor, views all the same."""
        fused = self._linear(name, sum(rows), self.width)
        stops = [sum(rows[: index + 1]) for index in range(len(rows))]
        return [
            Linear(
                fused.weight.rows(stop - count, stop),
                fused.bias.rows(stop - count, stop) if fused.bias is not None else None,
            )
            for count, stop in zip(rows, stops, strict=True)
        ]

    def _norm(self, name: str) -> Norm:
        return Norm(
            "layer",
            scale=self.tensors.take(f"{name}.weight", (self.width,)),
            bias=self.tensors.take(f"{name}.bias", (self.width,)),
            eps=self.eps,
        )

    def _drop_copy_of(self, table: Weight, name: str) -> None:
        if name not in self.tensors:
            return
        copy = self.tensors.take(name, table.shape)
        same = copy is table or (copy.tensor.dtype == table.tensor.dtype and torch.equal(copy.tensor, table.tensor))
        copy.release_pages()
        table.release_pages()
        if not same:
            raise CheckpointError(
                f"the config of {self.archive.path} ties the head to the embedding, but '{name}' differs from "
                f"'{table.name}'; set tie_word_embeddings to false if they were trained apart"
            )

    def _computed(self, positions: int, kv_heads: int, *, biased: bool) -> dict[str, tuple[object, ...]]:
        """What else a config may say, and what it says of this model, whose dimensions were read already."""
        return {
            **BLOCKS,
            **dict.fromkeys(("n_ctx", "block_size", "context_length", "max_position_embeddings"), (positions,)),
            **dict.fromkeys(("max_seq_len", "max_seq_length", "seq_len", "sequence_length"), (positions,)),
            **dict.fromkeys(("num_key_value_heads", "n_kv_heads", "n_kv_head", "num_kv_heads"), (kv_heads,)),
            **dict.fromkeys(("num_attention_heads", "num_heads", "n_heads"), (self.heads,)),
            **dict.fromkeys(("num_hidden_layers", "num_layers", "n_layers"), (self.layers,)),
            **dict.fromkeys(("hidden_size", "d_model", "dim"), (self.width,)),
            **dict.fromkeys(("intermediate_size", "d_ff", "ffn_dim"), (self.inner,)),
            **dict.fromkeys(("mlp_ratio", "n_inner_mult"), (self.inner / self.width,)),
            **dict.fromkeys(("bias", "attention_bias", "qkv_bias", "mlp_bias"), (biased,)),
            **dict.fromkeys(("layer_norm_eps", "norm_eps"), (self.eps,)),
            **dict.fromkeys(("head_dim", "head_size"), (self.head_dim,)),
            **dict.fromkeys(("causal", "is_causal", "is_decoder"), (True,)),
        }

    def _training(self) -> dict[str, Any]:
        facts: dict[str, Any] = self.archive.numbers("step", "epoch", "tokens_seen")
        metrics = self.archive.contents.get("val_metrics")
        return facts | ({"val_metrics": numbers_of(metrics)} if isinstance(metrics, Mapping) else {})

    def _notes(self, kv_heads: int) -> tuple[str, ...]:
        told = self.config.get("n_kv_groups")
        if told in (None, kv_heads):
            return ()
        return (
            f"the config says n_kv_groups {shown(told)}, the weights have {kv_heads} KV heads: the weights are right",
        )
