from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeqkv import InputError, demo
from edgeqkv.run.tokenizer import Tokenizer

WORDS = Tokenizer(demo.tokenizer_path())


@given(st.text(max_size=60))
def test_streaming_gives_the_whole_text_in_the_end(text: str) -> None:
    assert "".join(WORDS.stream(WORDS.encode(text))) == text


def test_a_character_of_several_tokens_is_never_split() -> None:
    text = "naïve 漢字 🙂!"
    assert len(WORDS.encode(text)) > len(text)
    pieces = list(WORDS.stream(WORDS.encode(text)))
    assert "".join(pieces) == text
    assert not any("\N{REPLACEMENT CHARACTER}" in piece for piece in pieces)


def test_special_tokens_are_found() -> None:
    assert WORDS.eos_token_ids == (WORDS.bos_id,)
    assert WORDS.size == 1024
    WORDS.check_fits(1024)
    with pytest.raises(InputError, match="token ids up to 1023, but the model's vocabulary ends at 1022"):
        WORDS.check_fits(1023)


def test_what_is_no_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no tokenizer file"):
        Tokenizer(tmp_path / "tokenizer.json")
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(InputError, match="is not a Hugging Face tokenizers JSON file"):
        Tokenizer(tmp_path / "tokenizer.json")
