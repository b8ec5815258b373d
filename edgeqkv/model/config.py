"""A model's dimensions, and what goes into it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from edgeqkv.errors import UnsupportedError
from edgeqkv.reading import of_field

__all__ = ["DecoderConfig", "EncoderConfig", "Features", "Image", "Tokens", "config_of"]

_DEFAULT_CONTEXT: Final = 2048

# What a manifest may say, which anybody may have written; models that are made from checkpoints are not held to it.
Size = Annotated[int, Field(ge=1, le=2**31)]
Layers = Annotated[int, Field(ge=1, le=2**14)]
Small = Annotated[float, Field(ge=0, lt=1)]
Channels = tuple[Annotated[float, Field(allow_inf_nan=False)], ...]


@dataclass(frozen=True)
class DecoderConfig:
    """A decoder's dimensions. ``positions`` is the longest context that it was trained for.

    ``computed_positions`` says that no table of learned ones ends them: they may be many more than a phone has memory
    for, and there are further ones.
    """

    __pydantic_config__: ClassVar = ConfigDict(extra="forbid")

    layers: Layers
    hidden_size: Size
    heads: Size
    kv_heads: Size
    head_dim: Size
    intermediate_size: Size
    vocab_size: Size
    positions: Size
    norm_eps: Small
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

    __pydantic_config__: ClassVar = ConfigDict(extra="forbid")

    vocab_size: Size
    length: Size
    longest: Size
    kind: Literal["tokens"] = "tokens"

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.length,)


@dataclass(frozen=True)
class Features:
    """An input of ``length`` feature vectors in no order, ``[length, size]``."""

    __pydantic_config__: ClassVar = ConfigDict(extra="forbid")

    length: Size
    size: Size
    kind: Literal["features"] = "features"

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.length, self.size)


@dataclass(frozen=True)
class Image:
    """An input of pixels ``[channels, size, size]``, cut into squares of ``patch`` pixels.

    A pixel of 0 to 1 went into training as ``(pixel - mean) / std`` of its channel, where that is known.
    """

    __pydantic_config__: ClassVar = ConfigDict(extra="forbid")

    channels: Size
    size: Size
    patch: Size
    mean: Channels | None = None
    std: Channels | None = None
    kind: Literal["image"] = "image"

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.channels, self.size, self.size)


@dataclass(frozen=True)
class EncoderConfig:
    """An encoder's dimensions.

    ``task`` is what its file says it was trained for; ``tokens`` is how many attention sees, the classifying one
    included.
    """

    __pydantic_config__: ClassVar = ConfigDict(extra="forbid")

    task: str
    layers: Layers
    hidden_size: Size
    heads: Size
    head_dim: Size
    intermediate_size: Size
    classes: Size
    tokens: Size
    norm_eps: Small
    input: Annotated[Tokens | Features | Image, Field(discriminator="kind")]

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


_DECODER: Final = TypeAdapter(DecoderConfig)
_ENCODER: Final = TypeAdapter(EncoderConfig)


def config_of(fields: Mapping[str, Any]) -> DecoderConfig | EncoderConfig:
    """The dimensions that a manifest records.

    Raises:
        UnsupportedError: they are of no kind of model that this edgeqkv knows, or no dimensions.
    """
    try:
        return _ENCODER.validate_python(fields) if "input" in fields else _DECODER.validate_python(fields)
    except ValidationError as error:
        first = error.errors()[0]
        raise UnsupportedError(
            f"the model's dimensions are of no kind that this edgeqkv knows: {of_field(first['loc'], first['msg'])}"
        ) from error
