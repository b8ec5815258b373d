"""A model into another variant, layer by layer: what is seen of one is used up before the next is looked at."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt
import torch

from edgeqkv.convert.reach import target_of
from edgeqkv.convert.solve import solve
from edgeqkv.convert.statistics import LayerStatistics, ObservingOps
from edgeqkv.errors import InputError
from edgeqkv.memory import give_back
from edgeqkv.model import walk
from edgeqkv.model.architectures.blocks import block
from edgeqkv.model.layers import Attention
from edgeqkv.model.model import Model
from edgeqkv.model.variants import Variant
from edgeqkv.progress import Progress, silent
from edgeqkv.reference.ops import TorchOps

__all__ = ["Conversion", "converted", "layers_seen", "rebuilt", "windows_of"]

_WINDOWS_AT_ONCE: Final = 4
_POSITIONS: Final = 24  # queries of a window that are looked at
_LENGTH: Final = 512
_SEED: Final = 20261125


@dataclass(frozen=True, eq=False)
class Conversion:
    """A converted model, and for each layer the part of what counts in its keys and values that was lost."""

    model: Model
    lost: tuple[float, ...]


@torch.no_grad()
def converted(
    model: Model,
    variant: str | Variant,
    tokens: npt.NDArray[np.int64],
    *,
    windows: int,
    on_progress: Progress = silent,
) -> Conversion:
    """As `edgeqkv.convert`, with what it cost."""
    target = target_of(model, variant)
    attentions, lost = [], []
    for layer, seen in enumerate(layers_seen(model, windows_of(tokens, model, windows), on_progress)):
        attention, loss = solve(model.network.blocks[layer].attention, seen, target, layer)
        attentions.append(attention)
        lost.append(loss)
    return Conversion(rebuilt(model, target, attentions), tuple(lost))


@torch.no_grad()
def layers_seen(
    model: Model, windows: npt.NDArray[np.int64], on_progress: Progress = silent
) -> Iterator[LayerStatistics]:
    """What is seen of each layer, one after the other, on ``windows [N, length]`` of tokens.

    Of the weights and of what is computed, only one layer's are in memory.
    """
    network, started = model.network, time.monotonic()
    some = torch.split(torch.from_numpy(windows), _WINDOWS_AT_ONCE)
    states = [network.embedded(TorchOps(), ids) for ids in some]
    for layer, weights in enumerate(network.blocks):
        observer = ObservingOps(weights.attention, _POSITIONS, torch.Generator().manual_seed(_SEED + layer))
        for index, x in enumerate(states):
            part = (layer + index / len(states)) / len(network.blocks)
            on_progress(f"converting layer {layer + 1} of {len(network.blocks)}{_left(started, part)}", part)
            x.copy_(block(observer, layer, x, weights))  # where it lies, so that memory does not fragment
        yield observer.statistics()
        del observer
        for weight in walk.weights(weights):
            weight.release_pages()
        give_back()


def rebuilt(model: Model, variant: Variant, attentions: Sequence[Attention]) -> Model:
    """The model with these attention layers."""
    blocks = tuple(
        replace(weights, attention=each) for weights, each in zip(model.network.blocks, attentions, strict=True)
    )
    return replace(
        model,
        variant=variant,
        config=replace(model.config, kv_heads=variant.kv_heads_of(model.config.heads)),
        network=replace(model.network, blocks=blocks),
        notes=(*model.notes, f"converted from {model.variant}"),
    )


def windows_of(tokens: npt.NDArray[np.int64], model: Model, most: int) -> npt.NDArray[np.int64]:
    """``[windows, length]``: pieces of a text ``[n]``, spread over it, or some of the rows that were given.

    Raises:
        InputError: the text is shorter than a window, or holds what is no token of the model.
    """
    if most < 1:
        raise InputError(f"{most} windows of calibration text are impossible; choose 1 or more (48 are enough)")
    tokens = np.asarray(tokens, dtype=np.int64)
    if tokens.size and not (tokens.min() >= 0 and tokens.max() < model.config.vocab_size):
        raise InputError(f"the calibration tokens are not all between 0 and {model.config.vocab_size - 1}")
    length = min(model.config.positions, _LENGTH)
    if tokens.ndim == 1:
        count = min(len(tokens) // length, most)
        starts = np.linspace(0, len(tokens) - length, count).astype(np.int64)
        tokens = np.stack([tokens[start : start + length] for start in starts]) if count else tokens[None, :0]
    if tokens.ndim != 2 or not 2 <= tokens.shape[1] <= model.config.positions:
        raise InputError(
            f"conversion needs a text of {length} tokens or more, or windows of 2 to {model.config.positions} tokens; "
            f"it was given {'x'.join(map(str, tokens.shape))}"
        )
    return tokens[np.linspace(0, len(tokens) - 1, min(len(tokens), most)).astype(np.int64)]


def _left(started: float, part: float) -> str:
    """What is left of the time, once that can be told."""
    spent = time.monotonic() - started
    if spent < 5 or part <= 0:
        return ""
    minutes = spent * (1 - part) / part / 60
    return f", {minutes:.0f} min left" if minutes >= 1 else ", less than a minute left"
