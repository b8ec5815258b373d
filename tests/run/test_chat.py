"""Chat templates: what they are given, where they are found, and what they may not do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizer_files import added_token, write_tokenizer

from edgeqkv import InputError
from edgeqkv.run.chat import ChatTemplate, carry
from edgeqkv.run.tokenizer import Tokenizer

TURNS = (
    "{{ bos_token }}{% for message in messages %}\n"
    "    <{{ message['role'] }}>{{ message.content | trim }}{{ eos_token }}\n"
    "{% endfor %}\n"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
ASKED = [{"role": "user", "content": " a & b "}]
ENDS = {"bos_token": "<s>", "eos_token": {"content": "</s>"}}


def beside(folder: Path, template: str | None = None, **config: Any) -> Tokenizer:
    """A tokenizer with a template and a configuration beside it, where they are given."""
    write_tokenizer(folder / "tokenizer.json", added_tokens=[added_token(4, "<s>"), added_token(5, "</s>")])
    if template is not None:
        (folder / "chat_template.jinja").write_text(template)
    if config:
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return Tokenizer(folder / "tokenizer.json")


def rendered(folder: Path, template: str) -> str:
    return ChatTemplate(beside(folder, template)).render(ASKED)


def test_a_template_is_rendered_as_transformers_does(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    told = [{"role": "system", "content": "é"}, *ASKED]
    template = TURNS + (
        "{{ messages | tojson }}{% generation %}{{ unk_token }}{% endgeneration %}{{ strftime_now('%Y') }}"
        "{% for n in range(9) %}{% if n == 2 %}{% break %}{% endif %}{{ n }}{% endfor %}"
    )
    tokenizer = beside(tmp_path, template, **ENDS, unk_token="?")
    theirs = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(tokenizer.path), bos_token="<s>", eos_token="</s>", unk_token="?", chat_template=template
    )
    text = ChatTemplate(tokenizer).render(told)
    assert text == theirs.apply_chat_template(told, tokenize=False, add_generation_prompt=True)
    assert text.startswith("<s>    <system>é</s>\n    <user>a & b</s>\n<assistant>")


def test_a_template_is_found_in_its_own_file_or_in_the_configuration(tmp_path: Path) -> None:
    tokenizer = beside(tmp_path, chat_template="config {{ eos_token }}", **ENDS)
    assert ChatTemplate(tokenizer).render(ASKED) == "config </s>"
    several = [{"name": "tool_use", "template": "tools"}, {"name": "default", "template": "plain"}]
    assert ChatTemplate(beside(tmp_path, chat_template=several)).render(ASKED) == "plain"
    both = ChatTemplate(beside(tmp_path, "file", chat_template="config"))
    assert (both.path.name, both.render(ASKED)) == ("chat_template.jinja", "file")


def test_tokens_are_the_tokenizer_s_own_without_a_configuration(tmp_path: Path) -> None:
    assert rendered(tmp_path, "{{ bos_token }}{{ eos_token }}{{ pad_token }}") == "<s></s>"


def test_a_model_without_a_template(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"there is no chat template beside .*tokenizer\.json"):
        ChatTemplate(beside(tmp_path, **ENDS))
    with pytest.raises(InputError, match="chat_template is neither a template nor a list"):
        ChatTemplate(beside(tmp_path, chat_template={"default": "x"}))


@pytest.mark.parametrize(
    ("template", "complaint"),
    [
        ("{% for %}", "is no Jinja template"),
        ("{% include '/etc/passwd' %}", "fails: no loader"),
        ("{{ raise_exception('roles must alternate') }}", "fails: roles must alternate"),
        ("{{ messages[0].content.nothing.more }}", "fails: 'str object' has no attribute 'nothing'"),
        ("{{ 1 / 0 }}", "fails: division by zero"),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "fails: access to attribute '__class__'"),
        ("{{ messages.append(1) }}", "fails: access to attribute .append. of .list. object is unsafe"),
        ("{% for a in range(99999) %}{{ '%99d' % a }}{% endfor %}", "fails: it writes more than 1,000,000 characters"),
        ("{% for a in range(999999) %}{% endfor %}", "fails: Range too big"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "fails: maximum recursion"),
    ],
)
def test_a_template_that_fails_or_does_what_it_must_not(tmp_path: Path, template: str, complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        rendered(tmp_path, template)


def test_a_bundle_gets_the_files_as_they_are(tmp_path: Path) -> None:
    tokenizer = beside(tmp_path, TURNS, **ENDS)
    out = tmp_path / "out"
    out.mkdir()
    carry(tokenizer.path, out)
    for name in ("chat_template.jinja", "tokenizer_config.json"):
        assert (out / name).read_bytes() == (tmp_path / name).read_bytes()


def test_a_target_s_own_configuration_gets_the_template_alone(tmp_path: Path) -> None:
    tokenizer = beside(tmp_path, TURNS, **ENDS)
    out = tmp_path / "out"
    out.mkdir()
    (out / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    carry(tokenizer.path, out)
    written = json.loads((out / "tokenizer_config.json").read_text())
    assert written == {"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": TURNS}


def test_nothing_is_carried_where_there_is_nothing(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    carry(beside(tmp_path).path, out)
    assert not list(out.iterdir())
