from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from reference_session import Nothing, artifact_of
from tokenizer_files import added_token, write_tokenizer

from edgeqkv import ContextFull, InputError, demo
from edgeqkv.run.generate import Generation, Sampling, StopReason, generate, sample
from edgeqkv.run.session import Session
from edgeqkv.run.tokenizer import Tokenizer

LOGITS = hnp.arrays(np.float32, st.integers(1, 40), elements=st.floats(-30, 30, width=32))


class Counter(Session):
    """After token t, t + 1 is the most likely."""

    def __init__(self, capacity: int = 10) -> None:
        super().__init__(artifact_of(context=capacity, chunk=4, vocab_size=100), Nothing())

    def _step(self, ids: np.ndarray, position: int) -> np.ndarray:
        return np.eye(100, dtype=np.float32)[(ids[-1] + 1) % 100] * 5


def test_greedy_generation_until_asked_to_stop() -> None:
    generation = Generation(Counter(), [1, 2], max_tokens=3)
    assert list(generation) == [3, 4, 5]
    assert generation.stopped is StopReason.MAX_TOKENS
    assert list(generation) == []


def test_generation_stops_at_the_end_of_the_text() -> None:
    generation = Generation(Counter(), [1], eos_token_ids=(4,))
    assert list(generation) == [2, 3]
    assert generation.stopped is StopReason.END_OF_TEXT


def test_generation_stops_where_the_context_is_full() -> None:
    session = Counter(capacity=6)
    generation = Generation(session, [1, 2, 3])
    # Six positions hold the prompt and three more tokens; the token after the last needs none.
    assert list(generation) == [4, 5, 6, 7]
    assert generation.stopped is StopReason.CONTEXT_FULL
    assert session.position == 6


def test_a_prompt_that_does_not_fit() -> None:
    with pytest.raises(ContextFull):
        Generation(Counter(capacity=2), [1, 2, 3])


@given(LOGITS)
def test_temperature_zero_takes_the_most_likely(logits: np.ndarray) -> None:
    assert sample(logits, Sampling(), np.random.default_rng(0)) == logits.argmax()


@given(LOGITS, st.integers(1, 5), st.integers(0, 99))
def test_top_k_draws_among_the_k_most_likely(logits: np.ndarray, k: int, seed: int) -> None:
    token = sample(logits, Sampling(temperature=1, top_k=k), np.random.default_rng(seed))
    assert (logits > logits[token]).sum() < k


@given(LOGITS, st.floats(0.05, 1), st.floats(0.1, 3), st.integers(0, 99))
def test_top_p_draws_from_the_nucleus(logits: np.ndarray, p: float, temperature: float, seed: int) -> None:
    token = sample(logits, Sampling(temperature=temperature, top_p=p), np.random.default_rng(seed))
    scaled = logits.astype(np.float64) / temperature
    probabilities = np.exp(scaled - scaled.max())
    probabilities /= probabilities.sum()
    more_likely = probabilities[logits > logits[token]].sum()
    assert more_likely <= p + 1e-9, "all that is more likely would have been enough"


def test_draws_follow_the_distribution() -> None:
    probabilities = np.array([0.5, 0.3, 0.15, 0.05])
    random = np.random.default_rng(0)
    logits = np.log(probabilities).astype(np.float32)
    draws = [sample(logits, Sampling(temperature=1), random) for _ in range(4000)]
    # Four standard deviations of a share from 4000 draws are at most 0.032.
    assert np.abs(np.bincount(draws, minlength=4) / 4000 - probabilities).max() < 0.032


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": -1.0}, "temperature -1"),
        ({"temperature": float("nan")}, "temperature nan"),
        ({"top_k": -1}, "top-k -1"),
        ({"top_p": 0.0}, "top-p 0"),
        ({"top_p": 1.5}, "top-p 1.5"),
        ({"temperature": float("inf")}, "temperature inf is impossible; choose 0 or more"),
        ({"temperature": "hot"}, "temperature 'hot' is impossible"),
        ({"top_k": 2.5}, r"top-k 2\.5 is impossible; choose a whole number, 0 or more"),
        ({"top_p": float("nan")}, "top-p nan is impossible; choose above 0 to 1"),
        ({"seed": -1}, "seed -1 is impossible; choose 0 to 18446744073709551615"),
        ({"seed": 10**5000}, r"seed about 2\^16610 is impossible"),
    ],
)
def test_settings_out_of_range(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Sampling(**settings)
    for count in (0, -5, 1.5):
        with pytest.raises(InputError, match="tokens cannot be generated"):
            Generation(Counter(), [1], max_tokens=count)  # type: ignore[arg-type]


@pytest.mark.parametrize("temperature", [5e-324, 1e-320, 1e-300, 1e300, 1.7e308])
def test_extreme_temperatures_are_limits(temperature: float) -> None:
    logits = np.array([1.0, 3.0, 3.0, -3e38], np.float32)
    draws = {sample(logits, Sampling(temperature=temperature, seed=s), np.random.default_rng(s)) for s in range(60)}
    assert draws == ({1, 2} if temperature < 1 else {0, 1, 2, 3})


def test_more_than_there_is_is_all_there_is() -> None:
    logits = np.zeros(3, np.float32)
    draws = {sample(logits, Sampling(1, top_k=10**30), np.random.default_rng(s)) for s in range(60)}
    assert draws == {0, 1, 2}
    assert list(Generation(Counter(), [1, 2], max_tokens=10**30))


def test_an_empty_prompt_is_refused() -> None:
    with pytest.raises(InputError, match="the prompt is empty"):
        generate(Counter(), Tokenizer(demo.tokenizer_path()), "")


def test_a_prompt_without_a_token_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"the prompt holds nothing that .*t\.json has a token for"):
        generate(Counter(), Tokenizer(write_tokenizer(tmp_path / "t.json")), "?")


def test_the_end_that_a_user_names_is_before_the_tokenizers(tmp_path: Path) -> None:
    tokenizer = Tokenizer(write_tokenizer(tmp_path / "t.json", added_tokens=[added_token(4, "</s>")]))
    assert list(generate(Counter(), tokenizer, "ab")) == [3]
    assert list(generate(Counter(), tokenizer, "ab", eos_token_ids=(5,))) == [3, 4]
    assert len(list(generate(Counter(), tokenizer, "ab", eos_token_ids=()))) == 10
