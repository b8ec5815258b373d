"""The scales of an int8 state, from the largest keys and values that the model makes of some tokens."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch

from edgeqkv.model.model import Model
from edgeqkv.model.state import HIGHEST, StateScales
from edgeqkv.progress import Progress, silent
from edgeqkv.reference.ops import SequenceOps

__all__ = ["with_state"]

_SEED = 20261101
# Of the context's length, and of tokens: bounds the time. On the demo model keys of 4 sequences of 512 tokens reach up
# to a fifth less far than those of 32, and what is cut off cost 0.7 % of perplexity on some texts.
_FEWEST_SEQUENCES, _ENOUGH_TOKENS = 4, 16384

# A tensor of zeros has no scale of its own; any positive one reproduces it. No key or value reaches this.
_TINY = float(np.finfo(np.float32).tiny)


def with_state(
    model: Model, state: str, calibration: npt.NDArray[np.int64] | None, on_progress: Progress = silent
) -> Model:
    """The model with the scales that a state of this precision needs: none, unless it is int8.

    Args:
        model: the model as it is stored, of the exported context.
        state: the state's precision.
        calibration: token ids ``[sequences, length]`` of a text; None: pseudo-random tokens, always the same ones,
            that fill the context once.
        on_progress: told of the progress.
    """
    if state != "int8":
        return model
    sequences = _sequences(model, calibration)
    ops = _ObservingOps()
    for index, tokens in enumerate(sequences):
        on_progress("calibrating the state", index / len(sequences))
        ops.observe(model, tokens)
    scales = {name: float(np.float32(max(peak / HIGHEST, _TINY))) for name, peak in ops.peaks.items()}
    return replace(model, state_scales=StateScales(scales))


def _sequences(model: Model, calibration: npt.NDArray[np.int64] | None) -> list[npt.NDArray[np.int64]]:
    """Tokens to run, as long as the context: each position has its own part in keys and values."""
    context = model.config.positions
    if calibration is None:
        return [np.random.default_rng(_SEED).integers(0, model.config.vocab_size, context)]
    tokens = calibration.reshape(-1)[: max(_FEWEST_SEQUENCES, _ENOUGH_TOKENS // context) * context]
    return [tokens[start : start + context] for start in range(0, len(tokens), context)]


class _ObservingOps(SequenceOps):
    """Computes sequences, and remembers the largest magnitude that went into each state tensor."""

    def __init__(self) -> None:
        super().__init__([0])
        self.peaks: dict[str, float] = {}

    @torch.inference_mode()
    def observe(self, model: Model, tokens: npt.NDArray[np.int64]) -> None:
        model.network.outputs(self, torch.from_numpy(tokens))
        self.release()

    def kept(self, name: str, rows: torch.Tensor) -> torch.Tensor:
        self.peaks[name] = max(self.peaks.get(name, 0.0), float(rows.abs().max()))
        return rows
