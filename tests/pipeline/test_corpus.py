"""Texts that are encoded at once, and those of which only windows are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgeqkv import InputError, demo
from edgeqkv.pipeline import corpus
from edgeqkv.pipeline.corpus import Corpus, corpus_of
from edgeqkv.run.tokenizer import Tokenizer

CONTEXT = 32
EVERY = slice(None)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(demo.tokenizer_path())


@pytest.fixture(scope="module")
def text() -> str:
    return demo.heldout_path().read_text(encoding="utf-8")[:40_000]


@pytest.fixture
def large(text: str, tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Corpus:
    monkeypatch.setattr(corpus, "_AT_ONCE", 1000)
    (tmp_path / "large.txt").write_text(text, encoding="utf-8")
    return corpus_of(tmp_path / "large.txt", tokenizer, CONTEXT)


def place(tokens: np.ndarray, tokenizer: Tokenizer, text: str) -> float:
    """Where a window stands in a text, as a part of it."""
    found = tokenizer.decode([int(token) for token in tokens]).strip("\ufffd")
    assert found in text
    return text.index(found) / len(text)


def test_windows_of_a_large_text_are_pieces_of_what_is_shown(large: Corpus, tokenizer: Tokenizer, text: str) -> None:
    windows = np.concatenate([large.shown.windows(seed, 8, CONTEXT, EVERY).numpy() for seed in range(8)])
    assert windows.shape == (64, CONTEXT)
    places = [place(window, tokenizer, text) for window in windows]
    assert min(places) < 0.1
    assert 0.85 < max(places) < 0.95
    kept = large.kept()
    assert 0.95 <= place(kept[:CONTEXT], tokenizer, text) < 0.96
    assert 0.9 < len(kept) / len(tokenizer.encode(text[-len(text) // 20 :])) < 1.1


def test_what_is_shown_depends_on_the_seed_alone(large: Corpus) -> None:
    whole = large.shown.windows(5, 8, CONTEXT, EVERY)
    assert not (whole == large.shown.windows(6, 8, CONTEXT, EVERY)).all()
    for process in range(3):
        share = slice(process, None, 3)
        assert (large.shown.windows(5, 8, CONTEXT, share) == whole[share]).all()


def test_the_closed_form_sees_windows_from_all_over_it(large: Corpus, tokenizer: Tokenizer, text: str) -> None:
    tokens = large.tokens(10)
    assert tokens.shape == (10, CONTEXT)
    assert [int(10 * place(window, tokenizer, text)) for window in tokens] == list(range(10))


def test_a_small_text_is_encoded_whole(text: str, tokenizer: Tokenizer, tmp_path: Path) -> None:
    (tmp_path / "small.txt").write_text(text, encoding="utf-8")
    small = corpus_of(tmp_path / "small.txt", tokenizer, CONTEXT)
    assert small.tokens(10).tolist() == tokenizer.encode(text)
    assert len(small.kept()) == len(small.tokens(10)) // 20
    shares = [small.shown.windows(3, 4, CONTEXT, slice(index, None, 2)) for index in range(2)]
    assert (small.shown.windows(3, 4, CONTEXT, EVERY)[1::2] == shares[1]).all()


def test_a_text_larger_than_memory_is_opened_at_once(tokenizer: Tokenizer, tmp_path: Path, text: str) -> None:
    with (tmp_path / "huge.txt").open("wb") as file:
        file.write(text.encode())
        file.truncate(1 << 38)  # a hole, whose bytes are characters too; a file system has no blocks for it
    huge = corpus_of(tmp_path / "huge.txt", tokenizer, CONTEXT)
    assert huge.shown.windows(0, 2, CONTEXT, EVERY).shape == (2, CONTEXT)
    assert huge.tokens(4).shape == (4, CONTEXT)
    assert len(huge.kept()) == 16 * CONTEXT


def test_texts_differ(large: Corpus, tokenizer: Tokenizer, tmp_path: Path) -> None:
    data = bytearray((tmp_path / "large.txt").read_bytes())
    data[100:110] = b"0123456789"
    (tmp_path / "other.txt").write_bytes(data)
    other = corpus_of(tmp_path / "other.txt", tokenizer, CONTEXT)
    assert other.shown.identity != large.shown.identity
    assert other.shown.identity == corpus_of(tmp_path / "other.txt", tokenizer, CONTEXT).shown.identity


def test_a_window_begins_within_no_character(large: Corpus, tokenizer: Tokenizer, tmp_path: Path) -> None:
    (tmp_path / "euro.txt").write_text("€" * 4000, encoding="utf-8")
    windows = corpus_of(tmp_path / "euro.txt", tokenizer, CONTEXT).shown.windows(0, 16, CONTEXT, EVERY)
    assert all(set(tokenizer.decode(window.tolist())) <= {"€", "\ufffd"} for window in windows)
    assert (windows[:, 0] == tokenizer.encode("€")[0]).all()


def test_what_is_no_text_is_said_with_its_place(large: Corpus, tokenizer: Tokenizer, tmp_path: Path) -> None:
    data = bytearray((tmp_path / "large.txt").read_bytes())
    data[5000] = 0xFF
    (tmp_path / "broken.txt").write_bytes(data)
    broken = corpus_of(tmp_path / "broken.txt", tokenizer, CONTEXT)
    with pytest.raises(InputError, match=r"broken\.txt is not text in UTF-8: invalid start byte at byte 5000"):
        broken.tokens(400)


def test_a_text_with_too_few_tokens_is_refused(tokenizer: Tokenizer, large: Corpus, tmp_path: Path) -> None:
    (tmp_path / "few.txt").write_text("a" * 1500, encoding="utf-8")
    with pytest.raises(InputError, match=r"few\.txt has hardly any windows of 2000 tokens"):
        corpus_of(tmp_path / "few.txt", tokenizer, CONTEXT).shown.check(2000)
