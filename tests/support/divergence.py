"""How far a tiny student is from its teacher, on the tokens that both are converted and distilled with."""

from __future__ import annotations

import numpy as np
import torch
from conftest import TINY

from edgeqkv.model.model import Model
from edgeqkv.reference.outputs import sequence_logits

TOKENS = np.random.default_rng(0).integers(0, TINY["vocab_size"], 48 * 8)


def divergence(teacher: Model, student: Model) -> float:
    """Of Kullback and Leibler, in nats a token, on the first 48."""
    p, q = (torch.from_numpy(sequence_logits(m, TOKENS[:48])).log_softmax(-1) for m in (teacher, student))
    return float((p.exp() * (p - q)).sum(-1).mean())
