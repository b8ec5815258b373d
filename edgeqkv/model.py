"""A model in memory: what a checkpoint turns into and what every backend starts from."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar, cast

from edgeqkv.errors import CheckpointError, InputError, UnsupportedError
from edgeqkv.models.decoder import Decoder
from edgeqkv.state_scales import StateScales
from edgeqkv.variants import Variant
from edgeqkv.weights import PRECISIONS, Weight

__all__ = ["DecoderConfig", "Model", "Source"]

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
class Source:
    """Where a model came from, as far as the file tells."""

    path: Path
    format: str
    model_class: str
    training: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Model:
    """A trained model: its variant, its dimensions, its weights (mapped, not read) and its origin.

    ``notes`` are what a reader of the checkpoint should know, such as a config that contradicts the weights.
    ``state_scales`` say how its state rounds keys and values, where it is stored in int8.
    """

    variant: Variant
    config: DecoderConfig
    network: Decoder
    source: Source
    notes: tuple[str, ...] = ()
    state_scales: StateScales | None = None

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

    def state_bytes(self, context: int, element_bytes: int) -> int:
        """KV state for ``context`` tokens, in bytes."""
        config = self.config
        per_token = self.variant.bytes_per_token(
            layers=config.layers, heads=config.heads, head_dim=config.head_dim, element_bytes=element_bytes
        )
        return context * per_token

    def with_weights(self, precision: str) -> Model:
        """The same model with its weights stored in ``precision``; their `values` are rounded to it.

        Raises:
            UnsupportedError: there is no such precision, or a weight is beyond its range.
        """
        if precision not in PRECISIONS:
            raise UnsupportedError(f"weights '{precision}' are unknown; edgeqkv knows {', '.join(PRECISIONS)}")
        return self.with_changed_weights(lambda weight: weight.with_precision(precision))

    def with_changed_weights(self, change: Callable[[Weight], Weight]) -> Model:
        """The same model with every distinct weight changed once; what is shared stays shared."""
        return replace(self, network=_map_weights(self.network, change, {}))

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
