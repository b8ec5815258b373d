"""A model in memory: what a checkpoint turns into and what every backend starts from."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self, TypeVar, cast

from edgeqkv.errors import CheckpointError, InputError, UnsupportedError
from edgeqkv.model.architectures.decoder import Decoder
from edgeqkv.model.architectures.encoder import EncoderNetwork
from edgeqkv.model.state import StateScales
from edgeqkv.model.variants import Variant
from edgeqkv.model.weights import PRECISIONS, Weight

__all__ = [
    "AnyModel",
    "DecoderConfig",
    "EncoderConfig",
    "EncoderModel",
    "Features",
    "Image",
    "Model",
    "Source",
    "Tokens",
    "TrainedModel",
    "language_model",
]

T = TypeVar("T")


@dataclass(frozen=True)
class DecoderConfig:
    """A decoder's dimensions. ``positions`` is the longest context that it was trained for."""

    layers: int
    hidden_size: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate_size: int
    vocab_size: int
    positions: int
    norm_eps: float
    tied_head: bool


@dataclass(frozen=True)
class Tokens:
    """An encoder's input of token ids ``[length]``, at most ``longest`` of them."""

    vocab_size: int
    length: int
    longest: int
    kind: str = "tokens"

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.length,)


@dataclass(frozen=True)
class Features:
    """An encoder's input of ``length`` feature vectors in no order, ``[length, size]``."""

    length: int
    size: int
    kind: str = "features"

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.length, self.size)


@dataclass(frozen=True)
class Image:
    """An encoder's input of pixels ``[channels, size, size]``, cut into squares of ``patch`` pixels.

    A pixel of 0 to 1 went into training as ``(pixel - mean) / std`` of its channel, where that is known.
    """

    channels: int
    size: int
    patch: int
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    kind: str = "image"

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.channels, self.size, self.size)


@dataclass(frozen=True)
class EncoderConfig:
    """An encoder's dimensions.

    ``task`` is what its file says it was trained for; ``tokens`` is how many attention sees, the classifying one
    included.
    """

    task: str
    layers: int
    hidden_size: int
    heads: int
    head_dim: int
    intermediate_size: int
    classes: int
    tokens: int
    norm_eps: float
    input: Tokens | Features | Image

    @property
    def output_shape(self) -> tuple[int, ...]:
        """What comes out for one input: logits of classes for each token, of each member, or of the image."""
        if isinstance(self.input, Image):
            return (self.classes,)
        return (self.tokens, self.classes) if isinstance(self.input, Tokens) else (self.tokens,)


@dataclass(frozen=True)
class Source:
    """Where a model came from, as far as the file tells."""

    path: Path
    format: str
    model_class: str
    training: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class TrainedModel:
    """A trained model: its variant, its dimensions, its weights (mapped, not read) and its origin.

    ``notes`` are what a reader of the checkpoint should know, such as a config that contradicts the weights.
    """

    variant: Variant
    config: Any
    network: Any
    source: Source
    notes: tuple[str, ...] = ()

    @property
    def weights(self) -> tuple[Weight, ...]:
        """Every distinct weight once, in the order of the computation."""
        return tuple(dict.fromkeys(_weights_in(self.network)))

    @property
    def parameters(self) -> int:
        """Trained numbers; shared and tied ones count once."""
        return sum(weight.tensor.numel() for weight in self.weights)

    @property
    def weight_bytes(self) -> int:
        """Bytes that the weights take in an artifact."""
        return sum(weight.stored_bytes for weight in self.weights)

    def with_weights(self, precision: str) -> Self:
        """The same model with its weights stored in ``precision``; their `values` are rounded to it.

        Raises:
            UnsupportedError: there is no such precision, or a weight is beyond its range.
        """
        if precision not in PRECISIONS:
            raise UnsupportedError(f"weights '{precision}' are unknown; edgeqkv knows {', '.join(PRECISIONS)}")
        return self.with_changed_weights(lambda weight: weight.with_precision(precision))

    def with_changed_weights(self, change: Callable[[Weight], Weight]) -> Self:
        """The same model with every distinct weight changed once; what is shared stays shared."""
        return replace(self, network=_map_weights(self.network, change, {}))

    def check_finite(self) -> None:
        """Look at every number once.

        Raises:
            CheckpointError: a weight holds NaN or infinity; the message names it and counts them.
        """
        for weight in self.weights:
            # Both ends of the range, because NaN spreads into them: no temporary as large as the weight.
            low, high = weight.tensor.aminmax()
            if not (low.isfinite() and high.isfinite()):
                bad = int((~weight.tensor.isfinite()).sum())
                raise CheckpointError(
                    f"'{weight.name}' in {self.source.path.name} holds {bad} values that are NaN or infinite "
                    f"(of {weight.tensor.numel()}): the training diverged or the file is damaged"
                )
            weight.release_pages()


@dataclass(frozen=True, eq=False)
class Model(TrainedModel):
    """A language model. ``state_scales`` say how its state rounds keys and values, where it is stored in int8."""

    config: DecoderConfig
    network: Decoder
    state_scales: StateScales | None = None

    def state_bytes(self, context: int, element_bytes: int) -> int:
        """KV state for ``context`` tokens, in bytes."""
        config = self.config
        per_token = self.variant.bytes_per_token(
            layers=config.layers, heads=config.heads, head_dim=config.head_dim, element_bytes=element_bytes
        )
        return context * per_token

    def with_context(self, context: int) -> Model:
        """The same model for at most ``context`` tokens: the position rows past it are left out.

        Raises:
            InputError: ``context`` is not between 1 and the positions that the model was trained for.
        """
        if not 1 <= context <= self.config.positions:
            raise InputError(
                f"a context of {context} is impossible: the model was trained for {self.config.positions} positions "
                f"(learned, so they cannot be extrapolated); choose 1 to {self.config.positions}"
            )
        table = self.network.position_table.rows(0, context)
        return replace(
            self,
            config=replace(self.config, positions=context),
            network=replace(self.network, position_table=table),
        )


@dataclass(frozen=True, eq=False)
class EncoderModel(TrainedModel):
    """A model that looks at its whole input at once, and keeps no state."""

    config: EncoderConfig
    network: EncoderNetwork


AnyModel = Model | EncoderModel
"""What a checkpoint may hold."""


def language_model(model: AnyModel, purpose: str) -> Model:
    """The model, which must be a language model for this purpose.

    Raises:
        InputError: it is an encoder.
    """
    if isinstance(model, Model):
        return model
    raise InputError(
        f"{model.source.path.name} is an encoder ({model.config.task}), and {purpose} is for language models"
    )


def _weights_in(node: object) -> Iterator[Weight]:
    if isinstance(node, Weight):
        yield node
    elif isinstance(node, tuple):
        for item in node:
            yield from _weights_in(item)
    elif dataclasses.is_dataclass(node):
        for field in dataclasses.fields(node):
            yield from _weights_in(getattr(node, field.name))


def _map_weights(node: T, change: Callable[[Weight], Weight], done: dict[int, Any]) -> T:
    """Rebuild a tree of layers with every weight changed; what was one object stays one object."""
    if id(node) in done:
        return cast("T", done[id(node)])
    result: Any = node
    if isinstance(node, Weight):
        result = change(node)
    elif type(node) is tuple:
        result = tuple(_map_weights(item, change, done) for item in cast("tuple[Any, ...]", node))
    elif dataclasses.is_dataclass(node) and not isinstance(node, type):
        parts = {
            field.name: _map_weights(getattr(node, field.name), change, done) for field in dataclasses.fields(node)
        }
        result = replace(node, **parts)
    done[id(node)] = result
    return cast("T", result)
