"""What an encoder's logits say."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

__all__ = ["evaluate"]

_BEST: Final = 5  # classes of an image that are told


def evaluate(logits: npt.NDArray[np.float32], kind: str) -> dict[str, Any]:
    """The answer to one input of a kind (`EncoderConfig.input`), as JSON values: tokens, classes or the odd one out."""
    if kind == "tokens":
        return {"tokens": logits.argmax(-1).tolist()}
    powers = np.exp(logits - logits.max())
    shares = (powers / powers.sum()).tolist()
    best = logits.argsort()[::-1].tolist()
    if kind == "features":
        return {"odd_one_out": best[0], "probability": shares[best[0]]}
    return {"classes": [{"class": index, "probability": shares[index]} for index in best[:_BEST]]}
