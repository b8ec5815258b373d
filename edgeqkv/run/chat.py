"""Chat templates: what a model was trained to see around the messages of a conversation.

Hugging Face's models bring a Jinja template, in a file of its own or in their tokenizer's configuration. It is a
stranger's program: it runs in Jinja's sandbox, with the names, filters and tags that transformers gives it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Final, NoReturn

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from edgeqkv.bundle.files import CHAT_TEMPLATE, TOKENIZER_CONFIG
from edgeqkv.errors import InputError
from edgeqkv.reading import check_file, is_file, parsed, read_json, read_text
from edgeqkv.run.tokenizer import Tokenizer

__all__ = ["ChatTemplate", "carry", "has_template"]

_LONGEST: Final = 1_000_000
"""Characters that a template may write: more fit into no context, and none would end one that writes forever."""

_NOW: Final = "strftime_now"


class ChatTemplate:
    """Messages in, the text that the model continues out.

    Attributes:
        path: the file that the template is from.
        tells_the_date: whether it may write what day it is.

    Args:
        tokenizer: the model's; the template is looked for beside its file.

    Raises:
        InputError: there is none, or it is no Jinja template.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        found = _source(tokenizer.path)
        if found is None:
            raise InputError(
                f"there is no chat template beside {tokenizer.path}, neither in {CHAT_TEMPLATE} nor in "
                f"{TOKENIZER_CONFIG}: the model may not have been trained for chat. Give it a text to continue"
            )
        self.path, source = found
        self.tells_the_date = _NOW in source
        self._variables = _variables(tokenizer)
        with parsed(f"the chat template in {self.path} is no Jinja template"):
            self._template = _environment().from_string(source)

    def render(self, messages: Sequence[Mapping[str, Any]]) -> str:
        """The text of a conversation, up to where the model's answer begins.

        Args:
            messages: each with a ``role`` ('system', 'user', 'assistant') and its ``content``, the oldest first.

        Raises:
            InputError: the template fails, refuses the messages, or does what no template may.
        """
        variables = {"messages": list(messages), "tools": None, "documents": None, "add_generation_prompt": True}
        pieces, written = [], 0
        with parsed(f"the chat template in {self.path} fails"):
            for piece in self._template.generate(**self._variables | variables):
                pieces.append(piece)
                written += len(piece)
                if written > _LONGEST:
                    raise TemplateError(f"it writes more than {_LONGEST:,} characters")
        return "".join(pieces)


def has_template(tokenizer: Tokenizer) -> bool:
    """Whether something that is meant as a template lies beside a tokenizer."""
    try:
        return _source(tokenizer.path) is not None
    except InputError:
        return True


def carry(tokenizer: Path, folder: Path) -> None:
    """Copy the files beside a tokenizer that chat takes into a bundle's folder.

    A configuration that a target wrote there says what its runtime understands, and only gets the template.

    Raises:
        InputError: one of them is damaged.
    """
    config, template = tokenizer.with_name(TOKENIZER_CONFIG), tokenizer.with_name(CHAT_TEMPLATE)
    written, found = folder / TOKENIZER_CONFIG, _source(tokenizer)
    if written.exists():
        content = read_json(written, "configuration") | ({} if found is None else {"chat_template": found[1]})
        written.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    elif is_file(config):
        written.write_bytes(config.read_bytes())
    if is_file(template):
        (folder / CHAT_TEMPLATE).write_bytes(template.read_bytes())


def _source(tokenizer: Path) -> tuple[Path, str] | None:
    """The file beside a tokenizer that has the template, and the template; its own file counts before the other."""
    file, config = tokenizer.with_name(CHAT_TEMPLATE), tokenizer.with_name(TOKENIZER_CONFIG)
    if is_file(file):
        check_file(file, InputError)
        return file, read_text(file)
    said = read_json(config, "configuration").get("chat_template") if is_file(config) else None
    if isinstance(said, list):  # several of them, by names
        named = {each.get("name"): each.get("template") for each in said if isinstance(each, dict)}
        said = named.get("default")
    if said is not None and not isinstance(said, str):
        raise InputError(f"{config}: chat_template is neither a template nor a list of them by names; correct it")
    return None if said is None else (config, said)


def _variables(tokenizer: Tokenizer) -> dict[str, str]:
    """The special tokens by the names that templates have for them: what the configuration says, or the tokenizer."""
    ids = {"bos_token": tokenizer.bos_id, "eos_token": next(iter(tokenizer.eos_token_ids), None)}
    tokens = {name: tokenizer.token_of(index) for name, index in ids.items() if index is not None}
    config = tokenizer.path.with_name(TOKENIZER_CONFIG)
    said = read_json(config, "configuration") if is_file(config) else {}
    tokens |= {
        name: token.get("content") if isinstance(token, dict) else token
        for name, token in said.items()
        if name.endswith("_token")
    }
    return {name: token for name, token in tokens.items() if isinstance(token, str)}


class _Generation(Extension):
    """``{% generation %}`` marks what the model says, for training; here it is as if it were not there."""

    tags = {"generation"}  # noqa: RUF012  as Jinja has it

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _environment() -> ImmutableSandboxedEnvironment:
    """As in transformers."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", _Generation]
    )
    environment.filters["tojson"] = _tojson
    environment.globals |= {"raise_exception": _refuse, _NOW: _now}
    return environment


def _tojson(value: Any, **options: Any) -> str:
    """Jinja's own escapes what means something in HTML."""
    return json.dumps(value, **{"ensure_ascii": False} | options)


def _refuse(message: str) -> NoReturn:
    raise TemplateError(message)


def _now(form: str) -> str:
    return datetime.now().strftime(form)
