"""A model's dimensions, and what goes into it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final

from edgeqkv.errors import UnsupportedError

__all__ = ["DecoderConfig", "EncoderConfig", "Features", "Image", "Tokens", "config_of"]

_DEFAULT_CONTEXT: Final = 2048


@dataclass(frozen=True)
class DecoderConfig:
    """A decoder's dimensions. ``positions`` is the longest context that it was trained for.

    ``computed_positions`` says that no table of learned ones ends them: they may be many more than a phone has memory
    for, and there are further ones.
    """

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
    computed_positions: bool = False

    kind: ClassVar[str] = "decoder"

    @property
    def default_context(self) -> int:
        """The context of an export that does not say which."""
        return min(self.positions, _DEFAULT_CONTEXT) if self.computed_positions else self.positions

    @property
    def input(self) -> Tokens:
        """Token ids, as many as there are positions."""
        return Tokens(self.vocab_size, self.positions, self.positions)


@dataclass(frozen=True)
class Tokens:
    """An input of token ids ``[length]``, at most ``longest`` of them."""

    vocab_size: int
    length: int
    longest: int
    kind: str = "tokens"

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.length,)


@dataclass(frozen=True)
class Features:
    """An input of ``length`` feature vectors in no order, ``[length, size]``."""

    length: int
    size: int
    kind: str = "features"

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.length, self.size)


@dataclass(frozen=True)
class Image:
    """An input of pixels ``[channels, size, size]``, cut into squares of ``patch`` pixels.

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

    kind: ClassVar[str] = "encoder"

    @property
    def vocab_size(self) -> int | None:
        """Token ids are ``0 … vocab_size - 1``; None where the input is none."""
        return self.input.vocab_size if isinstance(self.input, Tokens) else None

    @property
    def output_shape(self) -> tuple[int, ...]:
        """What comes out for one input: logits of classes for each token, of each member, or of the image."""
        if isinstance(self.input, Image):
            return (self.classes,)
        return (self.tokens, self.classes) if isinstance(self.input, Tokens) else (self.tokens,)


_INPUTS: Final[dict[str, type[Any]]] = {kind.kind: kind for kind in (Tokens, Features, Image)}


def config_of(fields: Mapping[str, Any]) -> DecoderConfig | EncoderConfig:
    """The dimensions that a manifest records.

    Raises:
        UnsupportedError: they are of no kind of model that this edgeqkv knows.
    """
    try:
        if "input" not in fields:
            return DecoderConfig(**fields)
        found = {name: tuple(value) if isinstance(value, list) else value for name, value in fields["input"].items()}
        return EncoderConfig(**{**fields, "input": _INPUTS[str(found["kind"])](**found)})
    except (TypeError, KeyError) as error:
        raise UnsupportedError(f"the model's dimensions are of no kind that this edgeqkv knows: {error}") from error
