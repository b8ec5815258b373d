"""What can be said of an Xcode project without Xcode: it is a property list of the kind that Xcode writes, all that it
refers to is there, and it has the entitlements and settings that the app is told to have.
"""

from __future__ import annotations

import plistlib
import re
from pathlib import Path
from typing import Any, Final

__all__ = ["check_project", "parsed"]

_TOKEN: Final = re.compile(r'\s*(?://[^\n]*\n|/\*.*?\*/|\s)*("(?:[^"\\]|\\.)*"|[{}()=;,]|[\w./$<>-]+)', re.S)
_ID: Final = re.compile(r"[0-9A-F]{24}")
_MEMORY: Final = "com.apple.developer.kernel.increased-memory-limit"


def parsed(text: str) -> Any:
    """A property list in the old style, as nested dictionaries, lists and strings.

    Raises:
        ValueError: it is none.
    """
    tokens, place = [], 0
    end = len(text.rstrip())
    while place < end:
        match = _TOKEN.match(text, place)
        if match is None:
            raise ValueError(f"it cannot be read at '{text[place : place + 20]}'")
        tokens.append(match[1])
        place = match.end()
    value, rest = _value(tokens, 0)
    if rest != len(tokens):
        raise ValueError(f"something follows its end: '{tokens[rest]}'")
    return value


def _value(tokens: list[str], place: int) -> tuple[Any, int]:
    if place >= len(tokens):
        raise ValueError("it ends too early")
    if tokens[place] == "{":
        found: dict[str, Any] = {}
        place += 1
        while tokens[place] != "}":
            name = tokens[place].strip('"')
            if name in found:
                raise ValueError(f"'{name}' is there twice")
            place = _expect(tokens, place + 1, "=")
            found[name], place = _value(tokens, place)
            place = _expect(tokens, place, ";")
        return found, place + 1
    if tokens[place] == "(":
        items = []
        place += 1
        while tokens[place] != ")":
            item, place = _value(tokens, place)
            items.append(item)
            if tokens[place] == ",":
                place += 1
        return items, place + 1
    return tokens[place].strip('"'), place + 1


def _expect(tokens: list[str], place: int, sign: str) -> int:
    if place >= len(tokens) or tokens[place] != sign:
        raise ValueError(f"'{sign}' is missing after '{tokens[place - 1]}'")
    return place + 1


def check_project(project: Path) -> list[str]:
    """What is wrong with a project; one line each."""
    try:
        content = parsed((project / "project.pbxproj").read_text(encoding="utf-8"))
    except ValueError as error:
        return [f"{project.name} is no Xcode project: {error}"]
    objects, home = content["objects"], project.parent
    used = set(_ids([content["rootObject"], *objects.values()]))
    problems = [f"{project.name} refers to {each}, which is not in it" for each in sorted(used - objects.keys())]
    problems += [f"{project.name} has {each}, which nothing refers to" for each in sorted(objects.keys() - used)]
    for each in objects.values():
        folder = each.get("relativePath") or each.get("path")
        if folder is not None and each.get("sourceTree") != "BUILT_PRODUCTS_DIR" and not (home / folder).exists():
            problems.append(f"{project.name} names {folder}, which does not exist")
    package = (home / ".." / "Package.swift").read_text(encoding="utf-8")
    problems += [
        f"{project.name} uses the product {each['productName']}, which the package does not have"
        for each in objects.values()
        if each["isa"] == "XCSwiftPackageProductDependency" and f'.library(name: "{each["productName"]}"' not in package
    ]
    entitled = [
        name for each in objects.values() if (name := each.get("buildSettings", {}).get("CODE_SIGN_ENTITLEMENTS"))
    ]
    for name in entitled:
        if not (home / name).is_file() or plistlib.loads((home / name).read_bytes()).get(_MEMORY) is not True:
            problems.append(f"{name} does not ask for more memory")
    return problems if len(entitled) == 2 else [*problems, f"{project.name} has a configuration without entitlements"]


def _ids(value: Any) -> list[str]:
    """Every reference to an object in a part of the project."""
    if isinstance(value, dict):
        return [found for name, each in value.items() for found in _ids([name, each])]
    if isinstance(value, list):
        return [found for each in value for found in _ids(each)]
    return [value] if _ID.fullmatch(str(value)) else []
