"""The documentation's pages, and what is to be run of them."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```(console|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]


def blocks(page: Path) -> list[tuple[str, str]]:
    """Every block of commands and of Python: which of them it is, and its text."""
    return BLOCK.findall(page.read_text(encoding="utf-8"))


def commands(page: Path, text: str) -> Iterator[str]:
    for line in text.splitlines():
        assert line.startswith("$ "), f"a console block of {page.name} shows output: {line}"
        yield line.removeprefix("$ ")


def launch() -> str:
    """The command that starts several processes, which takes long; tests/cli/test_convert_processes.py runs it."""
    page = ROOT / "docs" / "convert.md"
    every = (command for kind, text in blocks(page) if kind == "console" for command in commands(page, text))
    (found,) = (command for command in every if command.startswith("accelerate "))
    return found


def check_install(command: str) -> None:
    """See that a command installs edgeqkv, in one of the ways that there are, or a package in the tests' versions.

    Nothing is taken from an index: there is no release yet.
    """
    if package := re.fullmatch(r"pip install '([\w-]+[<>=].*)'", command):
        assert package[1] in EXTRAS["dev"], f"{command}: not the versions in pyproject.toml"
        return
    extra = re.fullmatch(r"(?:pip install|pipx install|uvx --from) '\.(?:\[([\w-]+)\])?'(?: edgeqkv doctor)?", command)
    assert extra, command
    assert extra[1] is None or extra[1] in EXTRAS
