"""The text that every CPython installation carries: what the demo models are trained, calibrated and measured on.

Two sources, both English about Python: the language reference as `pydoc_data.topics` has it, and the prose of
docstrings and comments in the standard library's own modules. Whole reference topics are held out by a checksum of
their names, and no training paragraph shares eight words in a row with them.

This module imports nothing but the standard library.
"""

from __future__ import annotations

import ast
import re
import sysconfig
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from pydoc_data.topics import topics
from typing import NamedTuple

__all__ = ["Corpus", "prose_of", "read_corpus", "read_reference"]


class Corpus(NamedTuple):
    """Documents to train on, from both sources, and the held-out text."""

    reference: list[str]
    library: list[str]
    heldout: str


# What a Linux distribution may package apart from the interpreter, or a version may lack; and the tests.
_NOT_EVERYWHERE = re.compile(
    r"distutils|ensurepip|idlelib|lib2to3|pydoc_data|(site|dist)-packages|tests?|tkinter|turtle.*|config-.*"
)
_NAMES_PEOPLE = re.compile("copyright|licen[cs]e|@", re.IGNORECASE)


def read_corpus() -> Corpus:
    """Read the text of this Python installation and split it into what is trained on and what is not."""
    names, held = _names()
    heldout = "\n\n".join(part for name in sorted(held) for part in _paragraphs(topics[name])) + "\n"
    seen: set[str] = set()
    forbidden = set(_runs_of_eight(heldout))

    def new_documents(texts: Iterable[str]) -> list[str]:
        pairs = ((text, "\n\n".join(filter(is_new, _paragraphs(text)))) for text in texts)
        # What is left of a section that repeats a chapter is its headings: not worth reading.
        return [new for text, new in pairs if len(new) >= max(200, len(text) // 2)]

    def is_new(paragraph: str) -> bool:
        runs = list(_runs_of_eight(paragraph))
        if runs and (paragraph in seen or not forbidden.isdisjoint(runs)):
            return False
        seen.add(paragraph)  # shorter ones, headings for the most part, may recur
        return True

    # Largest first: a chapter keeps its flow, and the sections that repeat its paragraphs shrink instead.
    reference = new_documents(topics[name] for name in names if name not in held)
    return Corpus(reference, new_documents(prose_of(Path(sysconfig.get_path("stdlib")))), heldout)


def read_reference() -> str:
    """The language reference but for what is held out: quick to read, and enough to calibrate on."""
    names, held = _names()
    return "\n\n".join(part for name in names if name not in held for part in _paragraphs(topics[name]))


def _names() -> tuple[list[str], list[str]]:
    """The topics, largest first, and those that are held out."""
    names = sorted(topics, key=lambda name: (-len(topics[name]), name))
    return names, [name for name in names if zlib.crc32(name.encode()) % 16 == 2]


def prose_of(root: Path) -> Iterator[str]:
    """The prose of each module below a folder: its docstrings, then its blocks of comments."""
    owners = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for path in sorted(root.rglob("*.py")):
        if any(map(_NOT_EVERYWHERE.fullmatch, path.relative_to(root).parts)):
            continue
        source = path.read_text("utf-8", errors="ignore")
        nodes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, owners)]
        comments = re.findall(r"(?:^[ \t]*#.*\n){2,}", source, re.MULTILINE)
        texts = [ast.get_docstring(node) or "" for node in nodes]
        texts += [re.sub(r"^[ \t]*#+ ?", "", block, flags=re.MULTILINE) for block in comments]
        parts = (part for text in texts for part in _paragraphs(text))
        yield "\n\n".join(part for part in parts if _is_prose(part) and not _NAMES_PEOPLE.search(part))


def _paragraphs(text: str) -> Iterator[str]:
    """Prose without its line breaks, which a small model would spend its capacity on; the rest as it is."""
    for paragraph in re.split(r"\n[ \t]*\n", text):
        if paragraph.strip():
            yield " ".join(paragraph.split()) if _is_prose(paragraph) else paragraph.strip("\n").rstrip()


def _is_prose(paragraph: str) -> bool:
    """Whether it is sentences, not a code example, a heading, a table or a grammar."""
    letters = sum(character.isalpha() or character.isspace() for character in paragraph)
    is_sentence = re.search(r"[.:?!][)\"”]?(\s*\[\d+\])*$", paragraph.rstrip()) and ":\n" not in paragraph
    return bool(is_sentence) and letters > 0.85 * len(paragraph)


def _runs_of_eight(text: str) -> Iterator[tuple[str, ...]]:
    words = re.findall(r"\w+", text.lower())
    return (tuple(words[start : start + 8]) for start in range(len(words) - 7))
