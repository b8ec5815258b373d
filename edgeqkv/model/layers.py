"""What every architecture is made of: weights grouped into layers that say what they are.

The records hold data and no computation: an interpreter reads off them what to compute, a backend what it would have
to support, and a report what is stored. Sharing is identity here too: a Q-K=V layer's ``k`` and ``v`` are the *same*
`Linear`. Layers of one model may differ in heads, window and positions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

from edgeqkv.model.variants import Sharing, Variant

if TYPE_CHECKING:
    from edgeqkv.model.weights import Weight

__all__ = [
    "MLP",
    "Activation",
    "Attention",
    "Block",
    "Heads",
    "LatentRows",
    "LayerInput",
    "Linear",
    "Norm",
    "PaddedRows",
    "Rope",
    "ScoreTerm",
]

Activation = Literal["gelu", "gelu_tanh", "silu", "relu"]
"""``gelu`` is the exact (erf) form, ``gelu_tanh`` its usual approximation."""


class Heads(NamedTuple):
    """How a layer's channels divide into heads: query head ``h`` reads KV head ``h // (query // kv)``."""

    query: int
    kv: int
    dim: int


@dataclass(frozen=True, eq=False)
class Linear:
    """``weight [out, in]`` and, unless the model was trained without, ``bias [out]``."""

    weight: Weight
    bias: Weight | None = None


@dataclass(frozen=True, eq=False)
class Norm:
    """A normalization over channels: ``(x - mean) / √(variance + eps)``, or ``x / √(mean of squares + eps)`` (rms).

    What comes out is multiplied by ``scale [C] + offset``, and ``bias [C]`` is added, where there are such. An offset
    of 1 is for models that learned how far their scales are from 1.
    """

    kind: Literal["layer", "rms"]
    scale: Weight | None
    bias: Weight | None
    eps: float
    offset: float = 0.0


@dataclass(frozen=True)
class Rope:
    """Rotary positions (Su et al. 2021): pairs of a head's first ``dims`` channels are turned by position × frequency.

    The frequencies are given as numbers, whatever rule made them. A pair that is not turned has the frequency 0.

    Attributes:
        dims: channels of a head that are rotated, the first ones; the rest are left as they are.
        inverse_frequencies: one for each of the ``dims / 2`` pairs, radians a position.
        interleaved: whether a pair are neighbours (2i, 2i + 1), rather than (i, i + dims / 2).
        attention_factor: what sine and cosine are multiplied by (YaRN's).
    """

    dims: int
    inverse_frequencies: tuple[float, ...]
    interleaved: bool = False
    attention_factor: float = 1.0


@dataclass(frozen=True, eq=False)
class ScoreTerm:
    """The paper's 2-D position term, "(X)+": a score ``s`` of query i and key j becomes ``scale · s + bias[i, j]``.

    It was trained as a learned combination of fixed sinusoids, ``s · Σ w + p[i, j] · w + b``; nothing in it depends on
    the input, so that it comes down to these two constants. ``bias`` is ``[S, S]``.
    """

    scale: float
    bias: Weight


@dataclass(frozen=True, eq=False)
class PaddedRows:
    """How one row is made that serves as key and value where the two differ in rotated channels alone.

    Keys are values times a vector, and of each head the channels behind are rotated. So a row has the rotated channels
    of the key, and behind them the value: those of the key that are not rotated are the value's, and their factors go
    into the queries. A query is turned ``[rotated, rest, 0]``, which meets no channel of the value that the key has in
    another form.

    Attributes:
        rope: how the first channels of queries and the last ones of keys are rotated; its ``dims`` are a row's first.
        q_norm, k_norm, v_norm: normalization of each head of queries, keys and values.
    """

    rope: Rope
    q_norm: Norm | None = None
    k_norm: Norm | None = None
    v_norm: Norm | None = None


@dataclass(frozen=True, eq=False)
class LatentRows:
    """Multi-head latent attention (DeepSeek-AI, *DeepSeek-V2*, 2024) in its absorbed form.

    A row has a rotated key that all heads share, and behind it a latent vector, of which each head's keys and values
    are linear functions. The keys' goes into the queries, the values' is applied to what was mixed: the latent vector
    is key and value of all heads at once.

    Attributes:
        rope: how rotated queries and keys are; its ``dims`` are a row's first.
        q_down: what queries are made of, instead of the layer's input, and its normalization.
        q_rotated: the rotated part of the queries, ``[H·dims, C]``; the layer's ``q`` is the other one.
        k_rotated: the rotated key, ``[dims, C]``; the layer's ``k`` and ``v`` are the latent vector.
        norm: of the latent vector.
        absorbed: each head's queries → latent, ``[latent, channels]``.
        expanded: what each head mixed → its values, ``[channels, latent]``.
    """

    rope: Rope
    q_down: tuple[Linear, Norm] | None
    q_rotated: Linear
    k_rotated: Linear
    norm: Norm
    absorbed: tuple[Linear, ...]
    expanded: tuple[Linear, ...]


@dataclass(frozen=True, eq=False)
class Attention:
    """Query, key and value projections (the same object where the model shares them), the output one, and the rules.

    Attributes:
        q, k, v, out: the projections.
        heads: how channels divide into heads.
        scale: what a product of query and key is multiplied by, mostly ``1/√dim``.
        causal: whether a token sees only itself and what came before it, which is then kept as state.
        rope: how queries and keys are rotated.
        window: how many positions a token sees, itself included; None: all.
        q_norm, k_norm: normalization of each head of queries and keys, before they are rotated.
        softcap: scores become ``cap · tanh(score / cap)``.
        term: the 2-D position term.
        v_norm: normalization of each head of values, before they are stored. A merged layer's one value is normalized
            by it, and its keys are made of what is stored.
        joint_norms: normalization of all of a token's queries together, and of all its keys, as they come out of their
            projections; for layers that are not merged.
        rows: how queries and the one row of a merged layer are made, where a row is wider than a value. ``heads.dim``
            is a row's width then, and how they are normalized and rotated is said there and not here.
        source: the layer whose keys and values this one reads. It stores none; its ``k`` and ``v``, and what is made of
            them, are that layer's.
    """

    q: Linear
    k: Linear
    v: Linear
    out: Linear
    heads: Heads
    scale: float
    causal: bool
    rope: Rope | None = None
    window: int | None = None
    q_norm: Norm | None = None
    k_norm: Norm | None = None
    softcap: float | None = None
    term: ScoreTerm | None = None
    v_norm: Norm | None = None
    joint_norms: tuple[Norm, Norm] | None = None
    rows: PaddedRows | LatentRows | None = None
    source: int | None = None

    @property
    def value_dim(self) -> int:
        """Channels of a head's values: the last ones of what is stored."""
        return self.heads.dim - (0 if self.rows is None else self.rows.rope.dims)

    @property
    def unshared(self) -> int:
        """Numbers that keys and values of their own would take for every query head, a token."""
        if isinstance(self.rows, LatentRows):
            (_, plain), (values, _) = self.rows.absorbed[0].weight.shape, self.rows.expanded[0].weight.shape
            return self.heads.query * (plain + self.rows.rope.dims + values)
        return 2 * self.heads.query * self.value_dim

    @property
    def merged(self) -> bool:
        """Whether keys and values are one projection, so that one tensor is stored for both."""
        return self.k is self.v

    @property
    def variant(self) -> Variant:
        """What is shared among queries, keys and values, and the KV heads where they are fewer than query heads."""
        sharing = {(False, False): Sharing.QKV, (False, True): Sharing.K_IS_V, (True, False): Sharing.Q_IS_K}
        found = sharing.get((self.q is self.k, self.merged), Sharing.ALL)
        return Variant(found, self.heads.kv if self.heads.kv < self.heads.query else None)

    @property
    def roles(self) -> tuple[str, ...]:
        """What the tensors that are stored are: ``kv``, or ``k`` and ``v``; none where another layer's are read."""
        if self.source is not None:
            return ()
        return ("kv",) if self.merged else ("k", "v")

    def kept(self, context: int, chunk: int = 1) -> int:
        """How many of ``context`` positions have to be kept for calls of up to ``chunk`` tokens.

        All of them, or a window: as many as the last token of a call sees, and those that only the tokens before it do.
        """
        return context if self.window is None else min(self.window + chunk - 1, context)


@dataclass(frozen=True, eq=False)
class MLP:
    """``down(activation(up(x)))``; with a gate, ``down(activation(gate(x)) · up(x))``."""

    gate: Linear | None
    up: Linear
    down: Linear
    activation: Activation


@dataclass(frozen=True, eq=False)
class LayerInput:
    """What a layer makes of an input of its own: ``x + norm(out(activation(gate(x)) · input))``."""

    gate: Linear
    out: Linear
    norm: Norm
    activation: Activation


@dataclass(frozen=True, eq=False)
class Block:
    """A transformer block: normalization before each part, after it, or both.

    ``residual_scale`` is what each part's result is multiplied by before it is added, ``output_scale`` what comes out.
    ``input`` is the part after the MLP, in models whose layers have inputs of their own.
    """

    attention_norm: Norm | None
    attention: Attention
    mlp_norm: Norm | None
    mlp: MLP
    attention_post_norm: Norm | None = None
    mlp_post_norm: Norm | None = None
    residual_scale: float = 1.0
    output_scale: float = 1.0
    input: LayerInput | None = None
