from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeqkv import Sharing, Variant, VariantError

FREE = [sharing for sharing in Sharing if not sharing.ties_queries]
TIED = [sharing for sharing in Sharing if sharing.ties_queries]


@st.composite
def variants(draw: st.DrawFn) -> Variant:
    sharing = draw(st.sampled_from(list(Sharing)))
    kv_heads = None if sharing.ties_queries else draw(st.none() | st.integers(1, 64))
    return Variant(sharing, kv_heads, draw(st.booleans()))


@given(variants())
def test_parsing_what_was_printed_gives_the_same_variant(variant: Variant) -> None:
    assert Variant.parse(str(variant)) == variant


@given(variants(), st.integers(1, 8))
def test_reduction_is_one_minus_the_ratio_of_bytes(variant: Variant, group: int) -> None:
    heads = group * (variant.kv_heads or 4)
    sizes = {"layers": 3, "heads": heads, "head_dim": 8, "element_bytes": 2}
    ratio = Fraction(variant.bytes_per_token(**sizes), Variant(Sharing.QKV).bytes_per_token(**sizes))
    assert variant.reduction(heads) == 1 - ratio
    assert 0 <= variant.reduction(heads) < 1


@given(st.sampled_from(FREE), st.integers(1, 8), st.integers(1, 8))
def test_the_shortest_name_means_the_same(sharing: Sharing, kv_heads: int, group: int) -> None:
    heads = kv_heads * group
    variant = Variant(sharing, kv_heads)
    short = variant.for_heads(heads)
    assert short.kv_heads_of(heads) == kv_heads
    assert (short.kv_heads is None) == (group == 1)


@pytest.mark.parametrize(
    ("spelling", "canonical"),
    [
        ("qkv", "qkv"),
        ("QKV", "qkv"),
        ("qk_v", "q-k=v"),
        ("qk_v+gqa4", "q-k=v+gqa4"),
        ("Q-K=V", "q-k=v"),
        ("Q!=K=V", "q-k=v"),
        ("Q≠K=V", "q-k=v"),
        ("kv", "q-k=v"),
        ("qkv_kv", "q-k=v"),
        ("Q=K-V", "q=k-v"),
        ("Q=K!=V", "q=k-v"),
        ("(Q=K!=V)+", "q=k-v+2d"),
        ("Q=K=V", "q=k=v"),
        ("(Q=K=V)+", "q=k=v+2d"),
        ("QVV(3)", "qvv3"),
        ("q-k=v+gqa-4", "q-k=v+gqa4"),
        ("q-k=v+gqa1", "q-k=v+mqa"),
        ("q-k=v+mqa", "q-k=v+mqa"),
        ("GQA-8", "qkv+gqa8"),
        ("mqa", "qkv+mqa"),
        (" q-k=v + gqa4 ", "q-k=v+gqa4"),
        ("(QKV)++gqa4", "qkv+gqa4+2d"),
    ],
)
def test_accepted_spellings(spelling: str, canonical: str) -> None:
    assert str(Variant.parse(spelling)) == canonical


@pytest.mark.parametrize(
    "spelling", ["", "kqv", "q-k=v+gqa", "q-k=v+gqa4+mqa", "q-k=v+2d+2d", "q-k=v+", "qkv+x", "+gqa4", "(qkv)"]
)
def test_unknown_spellings_are_named(spelling: str) -> None:
    with pytest.raises(VariantError, match="known: qkv, q-k=v"):
        Variant.parse(spelling)


def test_impossible_combinations() -> None:
    with pytest.raises(VariantError, match="at least 1"):
        Variant.parse("qkv+gqa0")
    for sharing in TIED:
        with pytest.raises(VariantError, match="uses the queries as keys"):
            Variant.parse(f"{sharing}+gqa4")
    with pytest.raises(VariantError, match="6 query heads do not divide among 4"):
        Variant.parse("q-k=v+gqa4").kv_heads_of(6)


MIB = 1024 * 1024
SCALES = {
    "300M": {"layers": 20, "heads": 16, "head_dim": 64},
    "1.2B": {"layers": 22, "heads": 32, "head_dim": 64},
}


@pytest.mark.parametrize(
    ("scale", "variant", "mib", "cut"),
    [
        ("300M", "qkv", 160, Fraction(0)),
        ("300M", "q-k=v", 80, Fraction(1, 2)),
        ("300M", "q=k=v", 80, Fraction(1, 2)),
        ("300M", "q=k-v", 160, Fraction(0)),
        ("300M", "qkv+gqa4", 40, Fraction(3, 4)),
        ("300M", "q-k=v+gqa4", 20, Fraction(7, 8)),
        ("300M", "qkv+mqa", 10, Fraction(15, 16)),
        ("300M", "q-k=v+mqa", 5, Fraction(31, 32)),
        ("1.2B", "qkv", 352, Fraction(0)),
        ("1.2B", "q-k=v", 176, Fraction(1, 2)),
        ("1.2B", "qkv+gqa8", 88, Fraction(3, 4)),
        ("1.2B", "q-k=v+gqa8", 44, Fraction(7, 8)),
        ("1.2B", "qkv+mqa", 11, Fraction(31, 32)),
        ("1.2B", "q-k=v+mqa", Fraction(11, 2), Fraction(63, 64)),
    ],
)
def test_the_papers_table_of_2048_tokens_in_fp16(scale: str, variant: str, mib: Fraction, cut: Fraction) -> None:
    parsed = Variant.parse(variant)
    assert 2048 * parsed.bytes_per_token(**SCALES[scale], element_bytes=2) == mib * MIB
    assert parsed.reduction(SCALES[scale]["heads"]) == cut
