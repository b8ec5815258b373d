"""The interpreter of encoders that is traced into an ExecuTorch program: the torch one, in operators of XNNPACK's."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from edgeqkv.backends.executorch.layer_ops import ExecuTorchLayerOps
from edgeqkv.model.layers import Linear, ScoreTerm
from edgeqkv.model.ops import Heads
from edgeqkv.reference.encoder import TorchEncoderOps

__all__ = ["ExecuTorchEncoderOps"]

Tensor = torch.Tensor


class ExecuTorchEncoderOps(ExecuTorchLayerOps, TorchEncoderOps):
    """Values are ``[B, S, C]`` in float32."""

    def linear(self, x: Tensor, linear: Linear) -> Tensor:
        # XNNPACK rounds what goes into a quantized product a row at a time, and knows rows of a matrix alone.
        return super().linear(x.flatten(0, 1), linear).view(*x.shape[:2], -1)

    def patches(self, pixels: Tensor, size: int) -> Tensor:
        batch, channels, height, width = pixels.shape
        padded = F.pad(pixels, (0, -width % size, 0, -height % size))
        down, across = padded.shape[2] // size, padded.shape[3] // size
        squares = padded.view(batch, channels, down, size, across, size).permute(0, 2, 4, 1, 3, 5)
        return squares.reshape(batch, down * across, channels * size * size)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, heads: Heads, term: ScoreTerm | None) -> Tensor:
        batch, length = q.shape[:2]

        def heads_of(x: Tensor) -> Tensor:
            return x.view(batch, length, heads.query, heads.dim).transpose(1, 2).flatten(0, 1)

        # Products of three dimensions: of four, the sides would be expanded first, which XNNPACK does not do.
        scale = heads.dim**-0.5 * (1.0 if term is None else term.scale)
        scores = torch.bmm(heads_of(q) * scale, heads_of(k).transpose(1, 2))
        if term is not None:
            scores = scores + self.values(term.bias)
        mixed = torch.bmm(scores.softmax(-1), heads_of(v))
        return mixed.view(batch, heads.query, length, heads.dim).transpose(1, 2).flatten(2)
