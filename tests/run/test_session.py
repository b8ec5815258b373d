from __future__ import annotations

import numpy as np
import pytest
from reference_session import Nothing, artifact_of

from edgeqkv import ContextFull, InputError
from edgeqkv.run.session import Session


class Recorder(Session):
    """Notes what its steps are given."""

    def __init__(self, capacity: int = 10, chunk: int = 4) -> None:
        super().__init__(artifact_of(context=capacity, chunk=chunk, vocab_size=50), Nothing())
        self.steps: list[tuple[list[int], int]] = []

    def _step(self, ids: np.ndarray, position: int) -> np.ndarray:
        self.steps.append((ids.tolist(), position))
        return np.full(50, ids[-1], np.float32)


def test_tokens_are_fed_in_chunks_and_the_last_logits_come_back() -> None:
    session = Recorder()
    assert session.feed(range(9))[0] == 8
    assert session.steps == [([0, 1, 2, 3], 0), ([4, 5, 6, 7], 4), ([8], 8)]
    assert session.position == 9


def test_past_the_capacity_nothing_is_fed() -> None:
    session = Recorder()
    session.feed(range(7))
    before = list(session.steps)
    with pytest.raises(ContextFull, match="4 more tokens do not fit: 7 of 10"):
        session.feed([1, 2, 3, 4])
    assert session.steps == before
    assert session.position == 7
    session.feed([1, 2, 3])
    with pytest.raises(ContextFull):
        session.feed([1])
    session.reset()
    assert session.position == 0
    session.feed([5])
    assert session.steps[-1] == ([5], 0)


@pytest.mark.parametrize("tokens", [[], [1.5], [[1]], ["a"], [True], None])
def test_what_is_no_list_of_tokens_is_refused(tokens: object) -> None:
    with pytest.raises(InputError, match="one or more token ids"):
        Recorder().feed(tokens)  # type: ignore[arg-type]


@pytest.mark.parametrize("token", [-1, 50])
def test_what_is_not_in_the_vocabulary_is_refused(token: int) -> None:
    session = Recorder()
    with pytest.raises(InputError, match=f"token {token} .* 0 to 49"):
        session.feed([3, token])
    assert session.steps == []
