"""The names of attention variants and the arithmetic of their KV state.

A variant is projection sharing × head sharing (× an optional 2-D position term), in the terms of
*Do Transformers Need Three Projections?* (ICML 2026):

    ============  =======================================  ======================
    canonical     what is shared                           tensors stored a layer
    ============  =======================================  ======================
    ``qkv``       nothing                                  2 (K and V)
    ``q-k=v``     keys and values are one tensor           1
    ``q=k-v``     queries and keys are one tensor          2 (V still differs)
    ``q=k=v``     all three are one tensor                 1
    ``qvv3``      as ``q-k=v``, queries through two        1
                  matrices (folded into one at export)
    ============  =======================================  ======================

    suffix ``+gqaN``: N KV heads, ``+mqa``: one KV head, ``+2d``: the 2-D position term ("(X)+").

>>> str(Variant.parse("qk_v+gqa4"))
'q-k=v+gqa4'
>>> Variant.parse("q-k=v+gqa4").reduction(heads=16)
Fraction(7, 8)
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction
from typing import Self

from edgeqkv.errors import VariantError

__all__ = ["Sharing", "Variant"]


class Sharing(StrEnum):
    """Which of the three projections are one. The value is the canonical spelling."""

    QKV = "qkv"
    K_IS_V = "q-k=v"
    Q_IS_K = "q=k-v"
    ALL = "q=k=v"
    QVV3 = "qvv3"

    @property
    def tensors(self) -> int:
        """Tensors that the KV state stores a layer: 1 where keys and values are the same, else 2."""
        return 2 if self in (Sharing.QKV, Sharing.Q_IS_K) else 1

    @property
    def ties_queries(self) -> bool:
        """Whether queries are the keys, so that there must be as many KV heads as query heads."""
        return self in (Sharing.Q_IS_K, Sharing.ALL)


# Spellings after lower-casing, with "≠" and "!=" read as "-". `qk_v` looks ambiguous (Q-K=V or Q=K-V?);
# it means Q-K=V, which is why every message prints the canonical form.
_SPELLINGS = {
    "qkv": Sharing.QKV,
    "q-k-v": Sharing.QKV,
    "q-k=v": Sharing.K_IS_V,
    "qk_v": Sharing.K_IS_V,
    "kv": Sharing.K_IS_V,
    "qkv_kv": Sharing.K_IS_V,
    "q=k-v": Sharing.Q_IS_K,
    "q=k=v": Sharing.ALL,
    "qvv3": Sharing.QVV3,
    "qvv(3)": Sharing.QVV3,
}

_HEADS = re.compile(r"gqa-?(?P<n>\d+)|mqa")


@dataclass(frozen=True)
class Variant:
    """One attention variant.

    Attributes:
        sharing: which projections are one.
        kv_heads: KV heads if fewer than query heads (``+gqaN``; 1 is ``+mqa``); ``None``: one a query head.
        position_2d: whether scores carry the paper's 2-D position term.
    """

    sharing: Sharing
    kv_heads: int | None = None
    position_2d: bool = False

    def __post_init__(self) -> None:
        if self.kv_heads is None:
            return
        if self.kv_heads < 1:
            raise VariantError(f"'+gqa{self.kv_heads}' asks for {self.kv_heads} KV heads; at least 1 is needed")
        if self.sharing.ties_queries:
            raise VariantError(
                f"'{self.sharing}' uses the queries as keys, so it has as many KV heads as query heads: "
                f"'+{_heads_suffix(self.kv_heads)}' cannot be combined with it"
            )

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read any accepted spelling.

        Raises:
            VariantError: the spelling is unknown or the combination cannot exist.
        """
        words = text.strip().lower().replace("≠", "-").replace("!=", "-").replace(" ", "")
        grouped = re.fullmatch(r"\((.+)\)\+{1,2}(.*)", words)  # the paper's "(X)+"
        if grouped:
            words = f"{grouped[1]}+2d" + (f"+{grouped[2]}" if grouped[2] else "")
        name, *suffixes = words.split("+")
        if _HEADS.fullmatch(name):  # the paper's plain "GQA-4" and "MQA" share heads and nothing else
            name, suffixes = Sharing.QKV.value, [name, *suffixes]
        if name not in _SPELLINGS:
            raise VariantError(f"unknown variant '{text}'; {_accepted()}")
        kv_heads: int | None = None
        position_2d = False
        for suffix in suffixes:
            match = _HEADS.fullmatch(suffix)
            if match and kv_heads is None:
                kv_heads = int(match["n"] or 1)
            elif suffix == "2d" and not position_2d:
                position_2d = True
            else:
                raise VariantError(f"'+{suffix}' in variant '{text}' is unknown or given twice; {_accepted()}")
        return cls(_SPELLINGS[name], kv_heads, position_2d)

    def __str__(self) -> str:
        heads = f"+{_heads_suffix(self.kv_heads)}" if self.kv_heads is not None else ""
        return f"{self.sharing}{heads}{'+2d' if self.position_2d else ''}"

    def kv_heads_of(self, heads: int) -> int:
        """KV heads in a model with ``heads`` query heads.

        Raises:
            VariantError: the query heads do not divide evenly among the KV heads.
        """
        kv_heads = heads if self.kv_heads is None else self.kv_heads
        if heads % kv_heads:
            raise VariantError(f"{self}: {heads} query heads do not divide among {kv_heads} KV heads")
        return kv_heads

    def for_heads(self, heads: int) -> Variant:
        """The same variant in its shortest name: ``+gqaN`` says nothing where N is the number of heads."""
        shared = None if self.kv_heads_of(heads) == heads else self.kv_heads
        return Variant(self.sharing, shared, self.position_2d)

    def bytes_per_token(self, *, layers: int, heads: int, head_dim: int, element_bytes: int) -> int:
        """KV state that one token takes, in bytes: layers × tensors × KV heads × head dim × element size."""
        return layers * self.sharing.tensors * self.kv_heads_of(heads) * head_dim * element_bytes

    def reduction(self, heads: int) -> Fraction:
        """The part of an unshared (``qkv``) model's KV state that this variant saves, 0 ≤ r < 1."""
        return 1 - Fraction(self.sharing.tensors * self.kv_heads_of(heads), Sharing.QKV.tensors * heads)


def _heads_suffix(kv_heads: int) -> str:
    return "mqa" if kv_heads == 1 else f"gqa{kv_heads}"


def _accepted() -> str:
    names = ", ".join(sharing.value for sharing in Sharing)
    return f"known: {names} (qk_v is read as q-k=v), each with +gqaN, +mqa or +2d"
