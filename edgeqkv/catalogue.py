"""Catalogue files: YAML that is checked field by field, with the file and the line in every complaint.

Used for the devices (`edgeqkv.budget.devices`) and the recipes (`edgeqkv.budget.presets`), both of which people write
by hand.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from edgeqkv.errors import InputError
from edgeqkv.reading import check_file, reading

__all__ = ["nearest", "read"]

Record = TypeVar("Record", bound=BaseModel)


def read(path: Path, kind: type[Record]) -> Record:
    """Read a YAML file as a record of the given kind.

    Raises:
        InputError: the file is missing, is no YAML, or a field is wrong; the message names the line.
    """
    check_file(path, InputError)
    with reading(path, "text in UTF-8", InputError):
        text = path.read_text(encoding="utf-8")
    with reading(path, "YAML", InputError):
        try:
            tree = yaml.compose(text, Loader=yaml.SafeLoader)
            content = yaml.safe_load(text)
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            line = f", line {mark.line + 1}" if mark else ""
            raise InputError(f"{path}{line}: not YAML: {getattr(error, 'problem', error)}") from error
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = [part for part in first["loc"] if not _is_choice(part)]
        raise InputError(f"{path}, line {_line(tree, place)}: {_named(place)}{first['msg']}") from error


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


def _named(place: Sequence[int | str]) -> str:
    return f"{'.'.join(str(part) for part in place)}: " if place else ""
