"""Whether every platform call in an app's sources is listed with the page or source that it was checked against.

The apps compile against signatures alone, so that what they call of a platform is what the signatures declare. This
module holds those declarations against the app's ``APIS.md``: a table with a row for each file of signatures, which
names every declaration and links to where each was found.
"""

from __future__ import annotations

import re
from pathlib import Path

__all__ = ["declared", "unlisted"]

_DECLARATIONS = {
    ".java": r"\b(?:class|interface|enum)\s+(\w+)|(\w+)\s*\(|\bpublic long (\w+);|\b([A-Z][A-Z0-9_]+)\b",
    ".kt": r"\b(?:class|interface|object)\s+(\w+)|\bfun\s+(?:<[^>]*>\s*)?(?:[\w<>]+\.)?(\w+)\(|"
    r"\b(?:val|var)\s+(?:[\w<>]+\.)?(\w+):",
    ".swift": r"\b(?:class|struct|enum|protocol|typealias|case|func)\s+(\w+)|\b(?:let|var)\s+(\w+)\s*[:{]",
}
_COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.S)


def declared(file: Path) -> set[str]:
    """The names that a file of signatures declares."""
    text = _COMMENT.sub("", file.read_text(encoding="utf-8"))
    return {name for match in re.findall(_DECLARATIONS[file.suffix], text) for name in match if name}


def unlisted(signatures: Path, page: Path) -> list[str]:
    """What of the signatures the page does not list with a link, one line each."""
    rows = {
        match[1]: match[0] for match in re.finditer(r"^\| \[?`?([\w./]+)`?.*$", page.read_text(encoding="utf-8"), re.M)
    }
    problems = []
    for file in sorted(path for path in signatures.rglob("*") if path.suffix in _DECLARATIONS):
        name = file.relative_to(signatures).as_posix()
        row = rows.pop(name, "")
        if not re.search(r"https://\S+", row):
            problems.append(f"{name}: no row of {page.name} says where it was checked")
            continue
        listed = set(re.findall(r"\w+", " ".join(re.findall(r"`([^`]*)`", row))))
        problems += [f"{name}: {each} is not listed in {page.name}" for each in sorted(declared(file) - listed)]
    problems += [f"{page.name} lists {name}, which is no file of signatures" for name in rows if "/" in name]
    return problems
