"""What a model makes of an input, computed at once: the truth that exports are compared with."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from edgeqkv.model.model import Model
from edgeqkv.progress import Fraction
from edgeqkv.reference.ops import SequenceOps, TorchOps

__all__ = ["encoder_outputs", "sequence_logits"]


@torch.inference_mode()
def sequence_logits(
    model: Model,
    tokens: Sequence[int] | npt.NDArray[np.integer],
    rows: Sequence[int] | None = None,
    on_fraction: Fraction | None = None,
) -> npt.NDArray[np.float32]:
    """Logits of a whole sequence, computed at once and without a state.

    Args:
        model: the model; its weights' precision counts (`Weight.values`), and so does an int8 state's rounding.
        tokens: ``[T]`` token ids, at most as many as the model has positions.
        rows: the positions whose logits are wanted; all by default.
        on_fraction: told of the part of the layers that is done.

    Returns:
        ``[len(rows), vocab]``.
    """

    def on_layer(layer: int) -> None:
        if on_fraction is not None:
            on_fraction(layer / model.config.layers)

    ops = SequenceOps(range(len(tokens)) if rows is None else rows, model.state_scales, on_layer)
    logits: torch.Tensor = model.network.outputs(ops, torch.as_tensor(np.asarray(tokens, dtype=np.int64)))
    ops.release()
    return logits.numpy()


@torch.inference_mode()
def encoder_outputs(model: Model, inputs: npt.NDArray[np.generic]) -> npt.NDArray[np.float32]:
    """What an encoder makes of a batch of inputs ``[B, …]``: logits ``[B, …]`` (`EncoderConfig.output_shape`).

    Its weights' precision counts (`Weight.values`).
    """
    outputs = model.network.outputs(TorchOps(), torch.from_numpy(inputs))
    result: npt.NDArray[np.float32] = outputs.reshape(len(inputs), *model.config.output_shape).numpy()
    return result
