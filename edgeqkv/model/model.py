"""A model in memory: what a checkpoint turns into and what every backend starts from."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar

from edgeqkv.errors import CheckpointError, InputError, UnsupportedError
from edgeqkv.model import storage, walk
from edgeqkv.model.config import DecoderConfig, EncoderConfig, Features, Image, Tokens
from edgeqkv.model.layers import Block
from edgeqkv.model.ops import Ops
from edgeqkv.model.state import StateScales, StateSpec
from edgeqkv.model.variants import Variant
from edgeqkv.model.weights import PRECISIONS, Weight
from edgeqkv.reading import is_folder

__all__ = [
    "DecoderConfig",
    "EncoderConfig",
    "Features",
    "Image",
    "Model",
    "Network",
    "Source",
    "Tokens",
    "language_model",
]

V = TypeVar("V")


@dataclass(frozen=True)
class Source:
    """Where a model came from, as far as the file tells."""

    path: Path
    format: str
    model_class: str
    training: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def name(self) -> str:
        """What to call it: a file's name without its ending, or the folder's that it is."""
        return self.path.resolve().name if is_folder(self.path) else self.path.stem

    @property
    def folder(self) -> Path:
        """Where its tokenizer lies, if it has one."""
        return self.path if is_folder(self.path) else self.path.parent


class Network(Protocol):
    """What every architecture is: layers, what they compute, and what they keep meanwhile."""

    @property
    def blocks(self) -> tuple[Block, ...]: ...
    def state(self, context: int, chunk: int = 1) -> tuple[StateSpec, ...]:
        """The tensors that it stores for ``context`` positions and calls of up to ``chunk`` tokens; none, if it looks
        at its whole input at once."""

    def outputs(self, ops: Ops[V], inputs: V) -> V:
        """What it makes of its input."""


@dataclass(frozen=True, eq=False)
class Model:
    """A trained model: its variant, its dimensions, its weights (mapped, not read) and its origin.

    Attributes:
        variant: what its attention shares.
        config: its dimensions, a `DecoderConfig` or an `EncoderConfig`.
        network: its layers, a `Network` of the architecture's own type.
        source: where it came from.
        notes: what a reader of the checkpoint should know, such as a config that contradicts the weights.
        state_scales: how its state rounds keys and values, where it is stored in int8.
    """

    variant: Variant
    config: Any
    network: Any
    source: Source
    notes: tuple[str, ...] = ()
    state_scales: StateScales | None = None

    @property
    def described(self) -> str:
        """Its variant, and how many of its layers share otherwise: ``qkv+gqa4, 5 of 30 layers q-k=v``."""
        blocks: tuple[Block, ...] = self.network.blocks
        own = [block.attention for block in blocks if block.attention.source is None]
        _, *others = Counter(str(attention.variant) for attention in own).most_common()
        parts = [f"{count} of {len(blocks)} layers {variant}" for variant, count in others]
        reading = len(blocks) - len(own)
        parts += [f"{reading} of {len(blocks)} layers read another one's state"] if reading else []
        return ", ".join([str(self.variant), *parts])

    @property
    def causal(self) -> bool:
        """Whether it continues a text and keeps a state, rather than looking at its whole input at once."""
        return bool(self.state(1))

    @property
    def weights(self) -> tuple[Weight, ...]:
        """Every distinct weight once, in the order of the computation."""
        return walk.weights(self.network)

    @property
    def parameters(self) -> int:
        """Trained numbers; shared and tied ones count once."""
        return sum(weight.tensor.numel() for weight in self.weights)

    @property
    def weight_bytes(self) -> int:
        """Bytes that the weights take in an artifact."""
        return sum(weight.stored_bytes for weight in self.weights)

    def state(self, context: int, chunk: int = 1) -> tuple[StateSpec, ...]:
        """The tensors of its KV state for ``context`` tokens, fed up to ``chunk`` at a time."""
        specs: tuple[StateSpec, ...] = self.network.state(context, chunk)
        return specs

    def state_bytes(self, context: int, element_bytes: int, chunk: int = 1) -> int:
        """KV state for ``context`` tokens, fed up to ``chunk`` at a time, in bytes."""
        return sum(spec.numbers for spec in self.state(context, chunk)) * element_bytes

    def with_context(self, context: int, *, allow_longer: bool = False) -> Self:
        """The same decoder for at most ``context`` tokens: the position rows past it are left out.

        ``allow_longer`` lets a context be longer than what the model was trained for, where positions are computed.

        Raises:
            InputError: ``context`` is not between 1 and the positions that the model was trained for.
        """
        table, positions = self.network.position_table, self.config.positions
        longer = allow_longer and table is None and context > positions
        if not longer and not 1 <= context <= positions:
            why = " (learned, so they cannot be extrapolated)" if table is not None else ""
            raise InputError(
                f"a context of {context} is impossible: the model was trained for {positions} positions{why}; "
                f"choose 1 to {positions}"
            )
        network = self.network if table is None else replace(self.network, position_table=table.rows(0, context))
        return replace(self, config=replace(self.config, positions=context), network=network)

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
        return replace(self, network=walk.map_weights(self.network, change))

    def check_finite(self) -> None:
        """Look at every number once.

        Raises:
            CheckpointError: a weight's bytes are not those that its file's checksum is of, or it holds NaN or
                infinity; the message names it and counts them.
        """
        for weight in self.weights:
            if not storage.is_intact(weight.tensor):
                raise CheckpointError(
                    f"'{weight.name}' in {self.source.path.name} is damaged: its checksum is not the one that the file "
                    f"states. Copy or download it again"
                )
            # Both ends of the range, because NaN spreads into them: no temporary as large as the weight.
            low, high = weight.tensor.aminmax()
            if not (low.isfinite() and high.isfinite()):
                bad = int((~weight.tensor.isfinite()).sum())
                raise CheckpointError(
                    f"'{weight.name}' in {self.source.path.name} holds {bad} values that are NaN or infinite "
                    f"(of {weight.tensor.numel()}): the training diverged or the file is damaged"
                )
            weight.release_pages()


def language_model(model: Model, purpose: str) -> Model:
    """The model, which must be a language model for this purpose.

    Raises:
        InputError: it is an encoder.
    """
    if model.causal:
        return model
    raise InputError(
        f"{model.source.path.name} is an encoder ({model.config.task}), and {purpose} is for language models"
    )
