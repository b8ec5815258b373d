"""Chat templates taken apart: which have pieces, and that these write what the template does."""

from __future__ import annotations

from pathlib import Path

import pytest
from tokenizer_files import added_token, write_tokenizer

from edgeqkv.bundle.manifest import ChatCard
from edgeqkv.run.chat import ChatTemplate
from edgeqkv.run.tokenizer import Tokenizer
from edgeqkv.run.turns import chat_card, written

CHATML = (
    "{% if messages[0].role != 'system' %}<|im_start|>system\nYou help.<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
IN_BRACKETS = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content | trim }} [/INST]"
    "{% elif m.role == 'assistant' %} {{ m.content | trim }}{{ eos_token }}"
    "{% else %}{{ raise_exception('no system') }}{% endif %}{% endfor %}"
)
FOLDED = (
    "{{ bos_token }}{% set said = messages[0].content ~ '\n\n' if messages[0].role == 'system' else '' %}"
    "{% for m in messages if m.role != 'system' %}<turn>{{ 'model' if m.role == 'assistant' else 'user' }}\n"
    "{% if loop.first %}{{ said }}{% endif %}{{ m.content }}</turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<turn>model\n{% endif %}"
)
CONVERSATION = [
    {"role": "user", "content": " Hi "},
    {"role": "assistant", "content": "Hello."},
    {"role": "user", "content": "Why?"},
]


def beside(folder: Path, template: str | None) -> Tokenizer:
    write_tokenizer(folder / "tokenizer.json", added_tokens=[added_token(4, "<s>"), added_token(5, "</s>")])
    (folder / "tokenizer_config.json").write_text('{"bos_token": "<s>", "eos_token": "</s>"}')
    if template is not None:
        (folder / "chat_template.jinja").write_text(template)
    return Tokenizer(folder / "tokenizer.json")


def test_the_pieces_of_a_template(tmp_path: Path) -> None:
    card, note = chat_card(beside(tmp_path, CHATML))
    assert note == ""
    assert card == ChatCard(
        first="<|im_start|>system\nYou help.<|im_end|>\n<|im_start|>user\n",
        answered="<|im_end|>\n<|im_start|>assistant\n",
        next="<|im_end|>\n<|im_start|>user\n",
        answer="<|im_end|>\n<|im_start|>assistant\n",
        trimmed=False,
        system=ChatCard.System(before="<|im_start|>system\n", after="<|im_end|>\n<|im_start|>user\n"),
    )


@pytest.mark.parametrize(
    ("template", "system", "trimmed"),
    [(CHATML, True, False), (IN_BRACKETS, False, True), (FOLDED, True, False)],
    ids=["chatml", "brackets", "folded"],
)
def test_they_write_what_the_template_writes(tmp_path: Path, template: str, system: bool, trimmed: bool) -> None:
    tokenizer = beside(tmp_path, template)
    card, _ = chat_card(tokenizer)
    assert card is not None
    assert (card.system is not None, card.trimmed) == (system, trimmed)
    for said in ([], [{"role": "system", "content": "Be short."}])[: 1 + system]:
        for turns in (1, 3):
            asked = [*said, *CONVERSATION[:turns]]
            assert written(card, asked) == ChatTemplate(tokenizer).render(asked)


@pytest.mark.parametrize(
    "template",
    [
        CHATML.replace("m.content", "(m.content.split('</think>') | last)"),  # drops what was thought
        CHATML.replace("You help.", "Today is {{ strftime_now('%d') }}."),
        CHATML.replace("m.content", "(m.content ~ loop.index)"),
        CHATML.replace("m.content", "m.content | upper"),
        "{% for m in messages | reverse %}{{ m.content }}{% endfor %}",
        "{{ messages[-1].content }}",
        "{{ raise_exception('no') }}",
        "{% for %}",
    ],
)
def test_a_template_that_does_more_has_none_and_it_is_said(tmp_path: Path, template: str) -> None:
    card, note = chat_card(beside(tmp_path, template))
    assert card is None
    assert "chat_template.jinja" in note


def test_without_a_template_there_is_nothing_to_say(tmp_path: Path) -> None:
    assert chat_card(beside(tmp_path, None)) == (None, "")
