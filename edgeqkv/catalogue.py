"""Catalogue files: YAML that is checked field by field, with the file and the line in every complaint.

Used for the devices (`edgeqkv.budget.devices`) and the recipes (`edgeqkv.budget.presets`), both of which people write
by hand.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Final, TypeVar

import yaml
from pydantic import BaseModel, ValidationError
from yaml.constructor import SafeConstructor

from edgeqkv.errors import InputError
from edgeqkv.reading import of_field, parsed, read_text

__all__ = ["nearest", "read"]

Record = TypeVar("Record", bound=BaseModel)

# A catalogue is written by hand. What is larger or deeper was made to be a burden, and so were aliases, of which a few
# lines stand for more than any memory holds.
_MOST_BYTES: Final = 4 << 20
_DEEPEST: Final = 20

# libyaml's, where PyYAML was built with it, reads the built-in devices in a tenth of the time, which every command that
# knows of them spends.
_LOADER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read(path: Path, kind: type[Record]) -> Record:
    """Read a YAML file as a record of the given kind.

    Raises:
        InputError: the file is missing, is no YAML, or a field is wrong; the message names the line.
    """
    text = read_text(path, "YAML file", _MOST_BYTES)
    with parsed(f"{path}: not YAML"):
        try:
            _check_plain(path, text)
            tree = yaml.compose(text, Loader=_LOADER)
            _check_keys(path, tree)
            content = None if tree is None else SafeConstructor().construct_document(tree)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark
            line = f", line {mark.line + 1}" if mark else ""
            raise InputError(f"{path}{line}: not YAML: {error.problem}") from error
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = [part for part in first["loc"] if not _is_choice(part)]
        given = first["input"]
        value = f", not {str(given)[:40]}" if isinstance(given, str | int | float) else ""
        raise InputError(f"{path}, line {_line(tree, place)}: {of_field(place, first['msg'])}{value}") from error


def _check_plain(path: Path, text: str) -> None:
    """Raise `InputError` where a file has aliases, or is too deep for those who read it by recursion."""
    depth = 0
    for event in yaml.parse(text, Loader=_LOADER):
        line = event.start_mark.line + 1
        if isinstance(event, yaml.AliasEvent):
            raise InputError(
                f"{path}, line {line}: the alias *{event.anchor} is not read; write out what it stands for"
            )
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _DEEPEST:
            raise InputError(f"{path}, line {line}: nested more than {_DEEPEST} deep; it is no catalogue")


def _check_keys(path: Path, node: yaml.Node | None) -> None:
    """Raise `InputError` where a key stands twice in one place, of which YAML would take the last without a word."""
    if isinstance(node, yaml.SequenceNode):
        for each in node.value:
            _check_keys(path, each)
    elif isinstance(node, yaml.MappingNode):
        seen = set()
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise InputError(f"{path}, line {key.start_mark.line + 1}: '{key.value}' is said twice; keep one")
            seen.add(key.value if isinstance(key, yaml.ScalarNode) else None)
            _check_keys(path, value)


def nearest(name: str, known: Iterable[str]) -> str:
    """The names that ``name`` may be a slip of, for an error message.

    >>> nearest("iphone15", ["iphone-15", "iphone-16", "pixel-8"])
    'nearest: iphone-15, iphone-16'
    """
    names = sorted(known)
    close = get_close_matches(name.lower().replace("_", "-"), names, n=3, cutoff=0.5)
    return f"nearest: {', '.join(close)}" if close else f"known: {', '.join(names)}"


def _is_choice(part: int | str) -> bool:
    """Whether a part of an error's place is the name of a type that pydantic tried, and not a key."""
    return isinstance(part, str) and ("[" in part or part in ("float", "int", "str", "bool"))


def _line(node: yaml.Node | None, place: Sequence[int | str]) -> int:
    """The line of the value at a place, or of what should hold it; a key's own line where there is one."""
    line = node.start_mark.line if node else 0
    for part in place:
        if isinstance(node, yaml.MappingNode):
            pair = next(((key, value) for key, value in node.value if key.value == str(part)), None)
            if pair is None:
                break
            line, node = pair[0].start_mark.line, pair[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line
        else:
            break
    return line + 1
