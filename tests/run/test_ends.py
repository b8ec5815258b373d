"""Which tokens end a text: as the user says, as the files beside a tokenizer say, by known names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizer_files import added_token, write_tokenizer

from edgeqkv.errors import InputError
from edgeqkv.run.ends import eos_ids
from edgeqkv.run.tokenizer import Tokenizer


def tokenizer(folder: Path, *special: str, **files: Any) -> Tokenizer:
    """A tokenizer with special tokens from 4 on, and files beside it."""
    for name, content in files.items():
        text = content if isinstance(content, str) else json.dumps(content)
        (folder / f"{name}.json").write_text(text, encoding="utf-8")
    added = [added_token(4 + index, name) for index, name in enumerate(special)]
    return Tokenizer(write_tokenizer(folder / "tokenizer.json", added_tokens=added))


def test_what_is_no_unicode_is_no_token(tmp_path: Path) -> None:
    """JSON and command lines may have half a character."""
    read = tokenizer(tmp_path, "</s>", config={"eos_token": "\ud800"})
    assert read.id_of("\ud800") is None
    with pytest.raises(InputError, match="no token"):
        eos_ids(["\udcff"], read, 10)


@pytest.mark.parametrize(
    "name",
    [
        "<|endoftext|>",
        "</s>",
        "<|end|>",
        "<EOS>",
        "<end_of_turn>",
        "<|eot_id|>",
        "<\uff5cend\u2581of\u2581sentence\uff5c>",
    ],
)
def test_known_names_where_nobody_says_anything(name: str, tmp_path: Path) -> None:
    assert tokenizer(tmp_path, "<x>", name).eos_token_ids == (5,)


def test_no_name_is_known(tmp_path: Path) -> None:
    found = tokenizer(tmp_path, "<stop>")
    assert found.eos_token_ids == ()
    assert found.bos_id is None


@pytest.mark.parametrize(
    ("files", "ids", "source"),
    [
        ({"generation_config": {"eos_token_id": 5}}, (5,), "generation_config.json"),
        ({"generation_config": {"eos_token_id": [5, 2]}}, (5, 2), "generation_config.json"),
        ({"config": {"eos_token_id": 5}}, (5,), "config.json"),
        ({"tokenizer_config": {"eos_token": "<stop>"}}, (5,), "tokenizer_config.json"),
        (
            {"special_tokens_map": {"eos_token": {"content": "<stop>", "lstrip": False}}},
            (5,),
            "special_tokens_map.json",
        ),
        (
            {"config": {"eos_token_id": 2}, "generation_config": {"eos_token_id": [5]}},
            (5, 2),
            "generation_config.json, config.json",
        ),
        ({"config": {"eos_token_id": None, "eos_token": None}}, (4,), "its name"),
        ({"config": {"n_layer": 3}, "tokenizer_config": {}}, (4,), "its name"),
    ],
)
def test_what_the_files_beside_it_say(files: dict[str, Any], ids: tuple[int, ...], source: str, tmp_path: Path) -> None:
    ends = tokenizer(tmp_path, "</s>", "<stop>", **files).ends
    assert (ends.ids, ends.source, ends.notes) == (ids, source, ())


def test_the_start_is_found_in_the_same_way(tmp_path: Path) -> None:
    assert tokenizer(tmp_path, "<s>", "<go>").bos_id == 4
    assert tokenizer(tmp_path, "<s>", "<go>", tokenizer_config={"bos_token": "<go>"}).bos_id == 5


def test_what_is_no_token_of_the_tokenizer_is_passed_over_and_told(tmp_path: Path) -> None:
    # transformers writes GPT-2's 50256 into the config of a model of any vocabulary.
    files = {"config": {"eos_token_id": 50256}, "tokenizer_config": {"eos_token": "<gone>"}}
    ends = tokenizer(tmp_path, "</s>", **files).ends
    assert ends.ids == (4,)
    assert ends.notes == (
        "tokenizer_config.json names '<gone>' as eos token, which tokenizer.json does not have",
        "config.json names 50256 as eos token, which tokenizer.json does not have",
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"eos_token_id": "5"}, r"config\.json: eos_token_id is 5, which is neither an id nor a list of ids"),
        ({"eos_token_id": -1}, "eos_token_id is -1"),
        ({"eos_token_id": True}, "eos_token_id is True"),
        ({"eos_token_id": [2, 1.5]}, r"eos_token_id is \[2, 1\.5\]"),
        ({"eos_token_id": {"a": 1}}, "eos_token_id is"),
        ({"eos_token": 5}, "eos_token is 5, which is no token"),
        ({"eos_token": {"content": []}}, r"eos_token is \[\]"),
        ([], r"config\.json is no configuration: it holds a list"),
        ("{", r"config\.json is no JSON"),
        ("[" * 100_000, r"config\.json is no JSON"),
        ('{"eos_token_id": 1' + "0" * 5000 + "}", r"config\.json is no JSON"),
    ],
)
def test_a_damaged_file_is_an_error(content: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        tokenizer(tmp_path, "</s>", config=content).eos_token_ids  # noqa: B018


def test_what_a_user_names(tmp_path: Path) -> None:
    read = tokenizer(tmp_path, "</s>", "<stop>")
    assert eos_ids(["<stop>", "2", 4, "ab"], read, 6) == (5, 2, 4)
    assert eos_ids([], read, 6) == ()
    assert eos_ids([7], None, 8) == (7,)
    for given, message in (
        (6, "--eos 6 is no token of the model; its ids are 0 to 5"),
        ("6", "--eos 6 is no token of the model"),
        (-1, "--eos -1 is no token"),
        (True, "--eos True is no token"),
        (1.5, r"--eos 1\.5 is no token"),
        ("9" * 5000, "is no token of"),
        ("<end>", "--eos '<end>' is no token of .*; its special tokens: </s>, <stop>"),
    ):
        with pytest.raises(InputError, match=message):
            eos_ids([given], read, 6)  # type: ignore[list-item]
    with pytest.raises(InputError, match="'<stop>' needs the model's tokenizer; give it with --tokenizer, or give the"):
        eos_ids(["<stop>"], None, 6)
