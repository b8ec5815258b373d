"""The torch interpreter of encoders: the reference that every other backend is compared with.

Values are ``[B, S, C]`` in float32.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from edgeqkv.model.layers import ScoreTerm
from edgeqkv.model.model import EncoderModel
from edgeqkv.model.ops import EncoderOps, Heads
from edgeqkv.model.weights import Weight
from edgeqkv.reference.decoder import TorchLayerOps

__all__ = ["TorchEncoderOps", "encoder_outputs"]

Tensor = torch.Tensor


class TorchEncoderOps(TorchLayerOps, EncoderOps[Tensor]):
    """Runs an encoder on a batch."""

    def rows(self, ids: Tensor, table: Weight) -> Tensor:
        return F.embedding(ids, self.values(table))

    def patches(self, pixels: Tensor, size: int) -> Tensor:
        height, width = pixels.shape[2:]
        padded = F.pad(pixels, (0, -width % size, 0, -height % size))
        return F.unfold(padded, size, stride=size).transpose(1, 2)

    def prepend(self, x: Tensor, row: Weight) -> Tensor:
        return torch.cat([self.values(row).expand(len(x), 1, -1), x], dim=1)

    def add_positions(self, x: Tensor, table: Weight) -> Tensor:
        return x + self.values(table)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, heads: Heads, term: ScoreTerm | None) -> Tensor:
        batch, length = q.shape[:2]
        queries, keys, values = (x.view(batch, length, -1, heads.dim).transpose(1, 2) for x in (q, k, v))
        scale, bias = (1.0, None) if term is None else (term.scale, self.values(term.bias))
        mixed = F.scaled_dot_product_attention(queries, keys, values, attn_mask=bias, scale=scale * heads.dim**-0.5)
        return mixed.transpose(1, 2).flatten(2)

    def first(self, x: Tensor) -> Tensor:
        return x[:, :1]


@torch.inference_mode()
def encoder_outputs(model: EncoderModel, inputs: npt.NDArray[np.generic]) -> npt.NDArray[np.float32]:
    """What an encoder makes of a batch of inputs ``[B, …]``: logits ``[B, …]`` (`EncoderConfig.output_shape`).

    Its weights' precision counts (`Weight.values`).
    """
    outputs = model.network.outputs(TorchEncoderOps(), torch.from_numpy(inputs))
    result: npt.NDArray[np.float32] = outputs.reshape(len(inputs), *model.config.output_shape).numpy()
    return result
