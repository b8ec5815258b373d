"""What the paper measured for each variant: quoted beside memory figures, never computed from a user's model.

Validation perplexity, *Do Transformers Need Three Projections?* (ICML 2026), at 300M and 1.2B parameters. Shared
heads there are 4 KV heads of 16 (300M) and 8 of 32 (1.2B). Differences are worked out from the perplexities; where
the paper's text rounds otherwise (+4.8 % for ``q-k=v+mqa``), these are a tenth of a percent apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from edgeqkv.model.variants import Sharing, Variant

__all__ = ["SOURCE", "Quality", "quality"]

SOURCE: Final = "Do Transformers Need Three Projections?, ICML 2026: validation perplexity of the paper's own models"

_FULL, _GROUPED, _SINGLE = "", "gqa", "mqa"

_PERPLEXITY: Final = {
    "300M": {
        (Sharing.QKV, _FULL): 5.11,
        (Sharing.K_IS_V, _FULL): 5.27,
        (Sharing.Q_IS_K, _FULL): 5.36,
        (Sharing.ALL, _FULL): 6.41,
        (Sharing.QKV, _GROUPED): 5.15,
        (Sharing.K_IS_V, _GROUPED): 5.32,
        (Sharing.QKV, _SINGLE): 5.19,
        (Sharing.K_IS_V, _SINGLE): 5.36,
    },
    "1.2B": {
        (Sharing.QKV, _FULL): 5.004,
        (Sharing.K_IS_V, _FULL): 5.128,
        (Sharing.QKV, _GROUPED): 5.030,
        (Sharing.QKV, _SINGLE): 5.057,
        (Sharing.K_IS_V, _SINGLE): 5.212,
    },
}

_SIZES: Final = {"300M": 300_000_000, "1.2B": 1_200_000_000}

_NEAR: Final = 1.5
"""A model is of one of the paper's sizes if it is larger or smaller by no more than this factor."""


@dataclass(frozen=True)
class Quality:
    """A perplexity from the paper, and by what part it is above that of ``qkv`` at the same scale."""

    scale: str
    perplexity: float
    above_qkv: float

    def __str__(self) -> str:
        above = f"{self.above_qkv:+.1%} against qkv; " if self.above_qkv else ""
        return f"{self.perplexity:g} ({above}the paper's {self.scale})"


def quality(variant: Variant, heads: int, parameters: int) -> Quality | None:
    """The paper's figure for the variant at a model's scale; None where it has none, as of a model of another size.

    KV heads between one and all are compared with the paper's quarter of the heads.
    """
    kv_heads = variant.kv_heads_of(heads)
    shared = _FULL if kv_heads == heads else _SINGLE if kv_heads == 1 else _GROUPED
    scale = next((name for name, size in _SIZES.items() if size / _NEAR <= parameters <= size * _NEAR), None)
    if scale is None:
        return None
    figures = _PERPLEXITY[scale]
    found = figures.get((variant.sharing, shared))
    if found is None or variant.position_2d:
        return None
    return Quality(scale, found, found / figures[Sharing.QKV, _FULL] - 1)
