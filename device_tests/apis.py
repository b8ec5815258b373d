"""Whether every platform call in an app's sources is listed with the page or source that it was checked against.

The apps compile against signatures alone, so that what they call of a platform is what the signatures declare. This
module holds those declarations against the app's ``APIS.md``: every declaration is named there, and each file of
signatures has a row in a table with links to where its declarations were found.
"""

from __future__ import annotations

import re
from pathlib import Path

__all__ = ["declared", "unlisted"]

_DECLARATIONS = {
    ".java": r"\b(?:class|interface|enum)\s+(\w+)|(\w+)\s*\(|\bpublic long (\w+);|\b([A-Z][A-Z0-9_]+)\b",
    ".kt": r"\b(?:class|interface|object)\s+(\w+)|\bfun\s+(?:<[^>]*>\s*)?(?:[\w<>]+\.)?(\w+)\(|"
    r"\b(?:val|var)\s+(?:[\w<>]+\.)?(\w+):",
    ".swift": r"\b(?:class(?! func)|struct|enum|protocol|typealias|case|func)\s+(\w+)|\b(?:let|var)\s+(\w+)\s*[:{]",
}
_COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.S)


def declared(file: Path) -> set[str]:
    """The names that a file of signatures declares."""
    text = _COMMENT.sub("", file.read_text(encoding="utf-8"))
    return {name for match in re.findall(_DECLARATIONS[file.suffix], text) for name in match if name}


def unlisted(signatures: Path, page: Path) -> list[str]:
    """What of the signatures the page does not list, and which of their files it gives no link for; one line each."""
    text = page.read_text(encoding="utf-8")
    rows = {match[1]: match[0] for match in re.finditer(r"^\| ([\w./]+) \|.*$", text, re.M)}
    listed = set(re.findall(r"\w+", " ".join(re.findall(r"`([^`]*)`", text))))
    problems = []
    for file in sorted(path for path in signatures.rglob("*") if path.suffix in _DECLARATIONS):
        name = file.relative_to(signatures).as_posix()
        if "https://" not in rows.pop(name, ""):
            problems.append(f"{name}: no row of {page.name} says where it was checked")
        problems += [f"{name}: {each} is not listed in {page.name}" for each in sorted(declared(file) - listed)]
    missing = [name for name in rows if Path(name).suffix in _DECLARATIONS]
    return problems + [f"{page.name} lists {name}, which is no file of signatures" for name in missing]
