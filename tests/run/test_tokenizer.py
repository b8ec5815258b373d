from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizer_files import added_token, write_tokenizer

from edgeqkv import InputError, demo
from edgeqkv.run.ends import Ends
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
    with pytest.raises(InputError, match="there is no such tokenizer file"):
        Tokenizer(tmp_path / "tokenizer.json")
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(InputError, match="is not a Hugging Face tokenizers JSON file"):
        Tokenizer(tmp_path / "tokenizer.json")


# --- what a tokenizer file may do to a text


def ids_of(path: Path, text: str = "ab ab", **changes: Any) -> list[int]:
    return Tokenizer(write_tokenizer(path / "tokenizer.json", **changes)).encode(text)


def sequence(name: str) -> dict[str, Any]:
    return {"Sequence": {"id": name, "type_id": 0}}


TRUNCATION = {"direction": "Right", "max_length": 1, "strategy": "LongestFirst", "stride": 0}
PADDING = {
    "strategy": {"Fixed": 8},
    "direction": "Right",
    "pad_to_multiple_of": None,
    "pad_id": 0,
    "pad_type_id": 0,
    "pad_token": "a",
}
ADDING: dict[str, Any] = {
    "type": "TemplateProcessing",
    "single": [{"SpecialToken": {"id": "a", "type_id": 0}}, sequence("A")],
    "pair": [],
    "special_tokens": {"a": {"id": "a", "ids": [0], "tokens": ["a"]}},
}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"truncation": TRUNCATION},
        {"truncation": {**TRUNCATION, "stride": 5}},  # of which the library panics
        {"truncation": {**TRUNCATION, "direction": "Left"}},
        {"padding": PADDING},
        {"padding": {**PADDING, "strategy": "BatchLongest", "pad_to_multiple_of": 64, "direction": "Left"}},
        {"truncation": TRUNCATION, "padding": PADDING},
        {"model": {"dropout": 0.9}},
        {"model": {"dropout": 1.0}},
        {"post_processor": ADDING},
        {"post_processor": {**ADDING, "single": [sequence("A"), sequence("A")]}},
        {"post_processor": {**ADDING, "single": [{"SpecialToken": {"id": "a", "type_id": 0}}]}},
    ],
)
def test_a_text_is_encoded_whole_always_alike_and_with_nothing_added(changes: dict[str, Any], tmp_path: Path) -> None:
    tokenizer = Tokenizer(write_tokenizer(tmp_path / "tokenizer.json", **changes))
    assert all(tokenizer.encode("ab ab") == [2, 3, 2] for _ in range(20))
    off = {name for name in ("truncation", "padding") if name in changes}
    off |= {"dropout"} if "model" in changes else set()
    assert set(tokenizer.switched_off) == off
    # An app reads the bundle's copy with a library that does as it says.
    tokenizer.save(tmp_path / "copy.json")
    copied, read = (json.loads((tmp_path / name).read_text()) for name in ("copy.json", "tokenizer.json"))
    read |= {"truncation": None, "padding": None}
    read["model"]["dropout"] = None
    assert copied == read
    assert Tokenizer(tmp_path / "copy.json").switched_off == ()


def test_a_file_with_nothing_to_switch_off_is_copied_byte_by_byte(tmp_path: Path) -> None:
    WORDS.save(tmp_path / "copy.json")
    assert (tmp_path / "copy.json").read_bytes() == demo.tokenizer_path().read_bytes()


def test_what_belongs_to_the_model_is_kept(tmp_path: Path) -> None:
    assert ids_of(tmp_path, "AB aB", normalizer={"type": "Lowercase"}) == [2, 3, 2]
    assert ids_of(tmp_path, "ab", normalizer={"type": "Prepend", "prepend": " "}) == [3, 2]
    spaces = {"type": "Metaspace", "replacement": "b", "prepend_scheme": "always", "split": False}
    assert ids_of(tmp_path, "a", pre_tokenizer=spaces) == [1, 0]
    assert ids_of(tmp_path, "a?b") == ids_of(tmp_path, "ab"), "what it has no token for is nothing"
    assert ids_of(tmp_path, "a?b", model={"unk_token": " "}) == [0, 3, 1]


def test_added_tokens_that_are_written_in_a_text(tmp_path: Path) -> None:
    for flags, text, ids in (
        ({}, "ab <e> ab", [2, 3, 4, 3, 2]),
        ({"special": False}, "ab <e> ab", [2, 3, 4, 3, 2]),
        ({"lstrip": True}, "ab  <e> ab", [2, 4, 3, 2]),
        ({"rstrip": True}, "ab <e>  ab", [2, 3, 4, 2]),
        ({"lstrip": True, "rstrip": True}, "ab <e> ab", [2, 4, 2]),
        ({"single_word": True}, "a<e>a", [0, 0]),
    ):
        assert ids_of(tmp_path, text, added_tokens=[added_token(4, "<e>", **flags)]) == ids, flags


def test_ids_that_the_library_counts_otherwise(tmp_path: Path) -> None:
    tokens = [added_token(4, "<a>"), added_token(6, "<b>")]
    with pytest.raises(InputError, match=r"gives the token '<b>' the id 6, and the tokenizers library 5"):
        Tokenizer(write_tokenizer(tmp_path / "t.json", added_tokens=tokens)).check_ids()
    Tokenizer(write_tokenizer(tmp_path / "t.json", added_tokens=[*tokens[:1], added_token(5, "<b>")])).check_ids()
    WORDS.check_ids()


# --- errors of a library written in Rust

PANICS: tuple[dict[str, Any], ...] = (
    {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"}},
    {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "BAAAAAAAAAAA"}},
    {"pre_tokenizer": {"type": "FixedLength", "length": 0}},
    {"pre_tokenizer": {"type": "Split", "pattern": {"Regex": "("}, "behavior": "Isolated", "invert": False}},
    {"model": {"continuing_subword_prefix": "é"}},
    {"model": {"type": "WordLevel", "unk_token": "?"}},
    {"model": {"type": "Unigram", "unk_id": None, "vocab": [["a", 0.0]]}},
    {"model": {"vocab": {}, "merges": []}},
    {"model": {"dropout": 7}},
    {"truncation": "all of it"},
)


@pytest.mark.parametrize("changes", PANICS)
def test_every_failure_is_an_input_error_in_silence(
    changes: dict[str, Any], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = write_tokenizer(tmp_path / "tokenizer.json", **changes)
    with pytest.raises(InputError, match=r"tokenizer\.json (is not a Hugging|cannot encode|has no tokens)") as raised:
        Tokenizer(path).encode("éab ab")
    assert len(str(raised.value)) < 600
    assert capfd.readouterr() == ("", "")
    sys.stderr.write("still heard\n")
    assert capfd.readouterr().err == "still heard\n"


def test_a_pattern_that_never_ends(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    endless = {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}
    with pytest.raises(InputError, match=r"cannot encode the text.*retry-limit"):
        ids_of(tmp_path, "a" * 30 + "!", pre_tokenizer=endless)
    assert capfd.readouterr().err == ""


def test_tokens_that_cannot_be_decoded(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = write_tokenizer(tmp_path / "t.json", decoder={"type": "Strip", "content": "a", "start": 5, "stop": 9})
    with pytest.raises(InputError, match="cannot decode"):
        Tokenizer(path).decode([0])
    with pytest.raises(InputError, match="cannot decode token 0"):
        list(Tokenizer(path).stream([0]))
    with pytest.raises(InputError, match="cannot decode"):
        WORDS.decode([-1])
    assert capfd.readouterr().err == ""
    assert WORDS.decode([999_999]) == ""


def test_half_a_character_is_no_text() -> None:
    with pytest.raises(InputError, match=r"has '\\udce9' at character 3, which is no character"):
        WORDS.encode("caf\udce9")


def test_files_that_are_none(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name, message in (
        ("pipe", "it is a pipe"),
        (".", "is a folder"),
        ("x" * 5000, "File name too long"),
        ("nul\0", "null byte"),
    ):
        with pytest.raises(InputError, match=message):
            Tokenizer(tmp_path / name)
    for content in (b"", b"\xff", b"[]", b"null", b"[" * 100_000, b'{"model": 1' + b"0" * 5000 + b"}"):
        (tmp_path / "t.json").write_bytes(content)
        with pytest.raises(InputError, match="is not a Hugging Face tokenizers JSON file"):
            Tokenizer(tmp_path / "t.json")


# --- what people are told


def test_a_tokenizer_that_covers_little_of_the_vocabulary() -> None:
    assert WORDS.notes(1024, Ends((0,))) == WORDS.notes(1100, Ends((0,))) == ()
    (told,) = WORDS.notes(50304, Ends((0,)))
    assert told.startswith(
        "tokenizer.json has 1,024 tokens, and the model's vocabulary 50,304: it may belong to another"
    )


def test_what_was_switched_off_and_what_is_missing_is_told(tmp_path: Path) -> None:
    path = write_tokenizer(tmp_path / "t.json", truncation=TRUNCATION, padding=PADDING)
    assert Tokenizer(path).notes(4, Ends((), notes=("so",))) == (
        "so",
        "t.json asks for truncation and padding, which is switched off: a text is encoded whole",
        "t.json and the files beside it name no token that ends a text, so that none will; name one with --eos",
    )
