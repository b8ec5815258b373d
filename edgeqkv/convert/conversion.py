"""A model into another variant, layer by layer: what is seen of one is used up before the next is looked at."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt
import torch

from edgeqkv.convert.reach import smaller_layers, target_of
from edgeqkv.convert.room import Room
from edgeqkv.convert.solve import sides_of, solve
from edgeqkv.convert.statistics import LayerStatistics, ObservingOps
from edgeqkv.errors import InputError
from edgeqkv.memory import give_back
from edgeqkv.model import storage, walk
from edgeqkv.model.architectures.blocks import block
from edgeqkv.model.layers import Attention
from edgeqkv.model.model import Model
from edgeqkv.model.variants import Variant
from edgeqkv.progress import Progress, silent
from edgeqkv.reference.ops import TorchOps

__all__ = ["Candidates", "Conversion", "candidates", "converted", "layers_seen", "rebuilt", "windows_of"]

_WINDOWS_AT_ONCE: Final = 4
_POSITIONS: Final = 24  # queries of a window that are looked at
_LENGTH: Final = 512
_SEED: Final = 20261125


@dataclass(frozen=True, eq=False)
class Conversion:
    """A converted model.

    Attributes:
        model: as it became.
        lost: for each layer that was looked at, converted or not, the part of what counts in its keys and values that
            conversion loses; None for others.
        layers: those that were converted.
    """

    model: Model
    lost: tuple[float | None, ...]
    layers: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Candidates:
    """A model and its layers as they would become, each by itself: any of them can be taken, and others left.

    Attributes:
        model: as it was.
        variant: what the layers would become.
        attentions: the layers that were looked at, converted.
        lost: the part of what counts that each would lose.
        harm: what each would lose, measured by what passes through the model there: by this they compare.
    """

    model: Model
    variant: Variant
    attentions: Mapping[int, Attention]
    lost: Mapping[int, float]
    harm: Mapping[int, float]

    @property
    def ranked(self) -> tuple[int, ...]:
        """The layers, that which loses least first."""
        return tuple(sorted(self.attentions, key=lambda layer: self.harm[layer]))

    def taken(self, layers: Collection[int]) -> Conversion:
        """The model with these of its layers converted."""
        blocks = self.model.network.blocks
        new = [self.attentions[i] if i in layers else block.attention for i, block in enumerate(blocks)]
        lost = tuple(self.lost.get(layer) for layer in range(len(blocks)))
        return Conversion(rebuilt(self.model, self.variant, new), lost, tuple(sorted(layers)))


def converted(
    model: Model,
    variant: str | Variant,
    tokens: npt.NDArray[np.int64],
    *,
    windows: int,
    on_progress: Progress = silent,
) -> Conversion:
    """As `edgeqkv.convert` of all layers, with what it cost."""
    found = candidates(model, variant, tokens, windows=windows, on_progress=on_progress)
    return found.taken(found.ranked)


@torch.no_grad()
def candidates(
    model: Model,
    variant: str | Variant,
    tokens: npt.NDArray[np.int64],
    *,
    windows: int,
    layers: Sequence[int] | None = None,
    memory: int | None = None,
    on_progress: Progress = silent,
) -> Candidates:
    """Layers of a model as another variant.

    Args:
        model, variant, tokens, windows, on_progress: as of `edgeqkv.convert`.
        layers: which; None: all that would store less.
        memory: bytes that what is seen and what is made may take; the rest lies in a temporary file. None: however
            many.
    """
    target, room = target_of(model, variant, layers), Room(memory)
    chosen = smaller_layers(model, target) if layers is None else tuple(sorted(set(layers)))
    found = Candidates(model, target, attentions := {}, lost := {}, harm := {})
    every = layers_seen(model, windows_of(tokens, model, windows), on_progress, layers=chosen, room=room)
    for layer in chosen:
        attention, lost[layer], harm[layer] = _solved(model, layer, next(every), target)
        attentions[layer] = walk.map_weights(attention, lambda weight: replace(weight, tensor=room.kept(weight.tensor)))
        give_back()
    return found


def _solved(model: Model, layer: int, seen: LayerStatistics, target: Variant) -> tuple[Attention, float, float]:
    """One layer, what of it is lost, and how much that is; nothing of what was seen stays in memory."""
    before: Attention = model.network.blocks[layer].attention
    sides = sides_of(before, seen)
    after, lost = solve(before, seen, target, layer, sides=sides)
    return after, lost, lost * sum(part.energy for parts in sides for part in parts) / seen.stream


@torch.no_grad()
def layers_seen(
    model: Model,
    windows: npt.NDArray[np.int64],
    on_progress: Progress = silent,
    *,
    layers: Sequence[int] | None = None,
    room: Room | None = None,
) -> Iterator[LayerStatistics]:
    """What is seen of each layer, one after the other, on ``windows [N, length]`` of tokens.

    Of the weights and of what is computed, only one layer's are in memory. ``layers`` are those that are looked at, in
    ascending order; the others are computed as far as that is needed.
    """
    network, room = model.network, room or Room()
    layers = range(len(network.blocks)) if layers is None else layers
    states = []
    for ids in torch.split(torch.from_numpy(windows), _WINDOWS_AT_ONCE):
        states.append(room.kept(network.embedded(TorchOps(), ids)))
        for table in (network.token_table, network.position_table):
            if table is not None:
                table.release_pages()
    last = max(layers) + 1
    for layer, weights in enumerate(network.blocks[:last]):
        looked_at = layer in layers
        ops = TorchOps()
        if looked_at:
            ops = observer = ObservingOps(
                weights.attention, _POSITIONS, torch.Generator().manual_seed(_SEED + layer), room
            )
        stream = 0.0
        for index, x in enumerate(states):
            on_progress(f"converting {last} layer{'s' if last > 1 else ''}", (layer + index / len(states)) / last)
            x.copy_(block(ops, layer, x, weights))  # where it lies, so that memory does not fragment
            stream += float(x.var(-1, correction=0).sum(dtype=torch.float64)) * x.shape[-1]
            storage.give_back(x)
        if looked_at:
            yield replace(observer.statistics(), stream=stream / windows.size)
            del observer
        del ops
        for weight in walk.weights(weights):  # whoever was given the statistics has looked at them too
            weight.release_pages()
        give_back()


def rebuilt(model: Model, variant: Variant, attentions: Sequence[Attention]) -> Model:
    """The model with these attention layers, of which some are what ``variant`` says."""
    blocks = tuple(
        replace(weights, attention=each) for weights, each in zip(model.network.blocks, attentions, strict=True)
    )
    ((most, _),) = Counter(attention.variant for attention in attentions).most_common(1)
    return replace(
        model,
        variant=most,
        config=replace(model.config, kv_heads=most.kv_heads_of(model.config.heads)),
        network=replace(model.network, blocks=blocks),
        notes=(*model.notes, f"converted from {model.described} to {variant}"),
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
