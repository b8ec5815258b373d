"""Pixels 0 to 255, and what training made of them: ``(pixel / 255 - mean) / std`` of each channel."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from edgeqkv.errors import InputError

__all__ = ["denormalized", "normalized"]


def normalized(pixels: npt.NDArray[np.uint8], mean: Sequence[float], std: Sequence[float]) -> npt.NDArray[np.float32]:
    """``[n, channels, height, width]`` as a model takes them; float32, as in training."""
    mean_, std_ = (np.array(values, np.float32)[:, None, None] for values in (mean, std))
    values: npt.NDArray[np.float32] = (pixels.astype(np.float32) / np.float32(255) - mean_) / std_
    return values


def denormalized(
    values: npt.NDArray[np.floating], mean: Sequence[float], std: Sequence[float]
) -> npt.NDArray[np.uint8]:
    """The inverse of `normalized`. What lies between two pixels, as no image has it, becomes the nearer one.

    Raises:
        InputError: a value lies beyond what the darkest or the brightest pixel would be.
    """
    mean_, std_ = (np.array(each, np.float64)[:, None, None] for each in (mean, std))
    pixels = (values.astype(np.float64) * std_ + mean_) * 255
    low, high = float(pixels.min()), float(pixels.max())
    if low < -0.5 or high > 255.5:
        raise InputError(
            f"the input is no image that was normalized with mean {list(mean)} and std {list(std)}: its pixels would "
            f"reach from {low:.4g} to {high:.4g}, and those of an image are 0 to 255"
        )
    return pixels.round().clip(0, 255).astype(np.uint8)
