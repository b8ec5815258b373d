"""Chat templates taken apart, for apps that have no Jinja: the text that stands around the messages of a conversation.

Most templates write the same text around every message. For those the pieces are read off what the template makes of
messages that can be found again, then put together for other conversations, and compared with what it makes of these. A
template that does more (it drops what was thought, tells the date, counts turns) has no pieces.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from edgeqkv.bundle.manifest import ChatCard
from edgeqkv.errors import InputError
from edgeqkv.run.chat import ChatTemplate, has_template
from edgeqkv.run.tokenizer import Tokenizer

__all__ = ["chat_card", "written"]

_ROLES: Final = ("user", "assistant")
_TEXTS: Final = (
    "x", "Who are you?", "a line\n\nand another", "<b>&amp; {{ braces }} {% if %}", "7", "naïve 日本語 🙂",
    "it's \"so\"", "<think>why</think>because", "[INST] no [/INST]", "- a\n- b",
)  # fmt: skip
"""Messages that a template could treat otherwise than their neighbours."""

_SPACED: Final = ("  both  ", "\nbefore", "after\n")
"""Messages that a template which trims them changes."""


def chat_card(tokenizer: Tokenizer) -> tuple[ChatCard | None, str]:
    """The pieces of the template beside a tokenizer; None without one, and where it has none, with what is to be said
    of that (else nothing)."""
    try:
        template = ChatTemplate(tokenizer)
    except InputError as error:
        return None, str(error) if has_template(tokenizer) else ""
    card = None if template.tells_the_date else _verified(template)
    if card is not None:
        return card, ""
    return None, (
        f"the chat template in {template.path.name} does more than write text around messages: the sample apps, which "
        f"have no Jinja, do not chat with it"
    )


def _verified(template: ChatTemplate) -> ChatCard | None:
    """The pieces, put together for many conversations and compared with the template; None if they differ."""
    try:
        card = _taken_apart(template)
        for trimmed in (False, True):
            tried = card.model_copy(update={"trimmed": trimmed})
            asked = _conversations(card.system is not None)
            if all(template.render(each) == written(tried, each) for each in asked):
                return tried
    except (InputError, ValueError):  # it refuses a plain conversation, or does not write a message
        return None
    return None


def written(card: ChatCard, messages: Sequence[dict[str, str]]) -> str:
    """The text of a conversation, up to where the model's answer begins; the apps have the same in their languages.

    Args:
        card: the template's pieces.
        messages: from the user and the assistant in turn, the user's first and last; a system's may come before them.
    """
    pieces = []
    opening, turns = card.first, list(messages)
    if card.system is not None and turns[0]["role"] == "system":
        pieces = [card.system.before, _content(card, turns.pop(0))]
        opening = card.system.after
    for place, turn in enumerate(turns):
        before = opening if place == 0 else card.answered if turn["role"] == "assistant" else card.next
        pieces += [before, _content(card, turn)]
    return "".join((*pieces, card.answer))


def _content(card: ChatCard, message: dict[str, str]) -> str:
    return message["content"].strip() if card.trimmed else message["content"]


def _taken_apart(template: ChatTemplate) -> ChatCard:
    """The pieces, as one conversation shows them.

    Raises:
        InputError: the template refuses it.
        ValueError: a message cannot be found in what it writes.
    """
    marks = ["7b1f0c", "e04d92", "c58a36"]
    turns = [{"role": _ROLES[place % 2], "content": mark} for place, mark in enumerate(marks)]
    first, answered, following, answer = _between(template.render(turns), marks)
    card = ChatCard(first=first, answered=answered, next=following, answer=answer, trimmed=False)
    said = {"role": "system", "content": "90ab5e"}
    try:
        before, after, *_ = _between(template.render([said, *turns]), [said["content"], *marks])
    except (InputError, ValueError):  # it knows no system's message
        return card
    with_system = card.model_copy(update={"system": ChatCard.System(before=before, after=after)})
    fits = template.render([said, *turns]) == written(with_system, [said, *turns])
    return with_system if fits else card


def _between(text: str, marks: Sequence[str]) -> list[str]:
    """What stands before, between and behind marks that come once each, in this order.

    Raises:
        ValueError: they do not.
    """
    places = [text.index(mark) for mark in marks]
    if any(text.count(mark) != 1 for mark in marks) or places != sorted(places):
        raise ValueError("the messages are not written once each, in their order")
    ends = [place + len(mark) for place, mark in zip(places, marks, strict=True)]
    return [text[start:end] for start, end in zip([0, *ends], [*places, len(text)], strict=True)]


def _conversations(system: bool) -> Iterator[list[dict[str, str]]]:
    """Conversations of one to five turns, of all kinds of messages."""
    texts = [*_TEXTS, *_SPACED]
    for start in range(len(texts)):
        for turns in (1, 3, 5):
            said = [texts[(start + place) % len(texts)] for place in range(turns + 1)]
            asked = [{"role": _ROLES[place % 2], "content": text} for place, text in enumerate(said[:turns])]
            yield asked
            if system:
                yield [{"role": "system", "content": said[-1]}, *asked]
