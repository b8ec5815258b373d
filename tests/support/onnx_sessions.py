"""What the tests of the ONNX forms share."""

from __future__ import annotations

import numpy as np

from edgeqkv.run.session import Session

__all__ = ["every_position", "names_of"]


def every_position(session: Session, ids: np.ndarray, prompt: int) -> np.ndarray:
    """Logits after a prompt and after every further token."""
    session.reset()
    return np.stack([session.feed(ids[:prompt]), *(session.feed([token]) for token in ids[prompt:])])


def names_of(variant: str) -> list[str]:
    roles = ["kv"] if variant.startswith(("q-k=v", "q=k=v")) else ["k", "v"]
    return [f"{role}_{layer}" for layer in range(2) for role in roles]
