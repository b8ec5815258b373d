from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from reference_session import Nothing, artifact_of

from edgeqkv import ContextFull, InputError
from edgeqkv.bundle.manifest import Graph
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


class Calls(Nothing):
    """Notes the calls, and says which token came last."""

    def __init__(self) -> None:
        self.made: list[tuple[str, list[int], int]] = []

    def call(self, graph: Graph, inputs: Any) -> Any:
        tokens = inputs["tokens"].ravel().tolist()
        self.made.append((graph.name, tokens, int(inputs["start"][0])))
        return {"logits": np.full((1, 50), tokens[-1], np.float32)}


def of_fixed_graphs(calls: Calls, **sizes: int) -> Session:
    artifact = artifact_of(context=60, chunk=max(sizes.values()), vocab_size=50)
    (graph,) = artifact.graphs
    tokens, start = graph.inputs
    graphs = tuple(
        graph.model_copy(
            update={
                "name": name,
                "tokens": size,
                "fixed": True,
                "inputs": (tokens.model_copy(update={"shape": (1, size)}), start),
            }
        )
        for name, size in sizes.items()
    )
    return Session(artifact.model_copy(update={"graphs": graphs}), calls)


def test_a_fixed_graph_is_filled_up_for_all_but_the_token_whose_logits_are_wanted() -> None:
    calls = Calls()
    session = of_fixed_graphs(calls, prefill=24, decode=1)
    assert session.feed(range(30))[0] == 29
    assert calls.made == [
        ("prefill", list(range(24)), 0),
        ("prefill", [*range(24, 29), *[0] * 19], 24),
        ("decode", [29], 29),
    ]
    assert session.position == 30


def test_it_is_not_where_it_does_not_fit_or_is_not_worth_a_call() -> None:
    calls = Calls()
    session = of_fixed_graphs(calls, prefill=24, decode=1)
    session.feed([7, 8])  # two calls, instead of two
    assert [name for name, _, _ in calls.made] == ["decode", "decode"]
    session.feed(range(35))
    calls.made.clear()
    assert session.feed(range(10, 20))[0] == 19  # 24 more would lead past the context's 60
    assert [(name, start) for name, _, start in calls.made] == [("decode", start) for start in range(37, 47)]
