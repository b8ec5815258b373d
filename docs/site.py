"""What the site needs beyond mkdocs.yml: the pages that lie outside docs/, under their own paths.

So every link in the sources is a path in the repository, which is right on the site as well as where sources are read.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent
_LINK = re.compile(r"(?<=\]\()([^)#:\s]+)(?=[)#])")


def _outside() -> list[str]:
    pages = [*ROOT.glob("*.md"), *(ROOT / "device_tests").glob("*.md"), *(ROOT / "device_tests").glob("*/*.md")]
    return sorted(
        page.relative_to(ROOT).as_posix() for page in pages if page.name != "README.md" or page.parent != ROOT
    )


def on_files(files: Files, config: Any) -> Files:
    for path in _outside():
        files.append(File.generated(config, path, abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: Any, files: Files) -> str:
    """Links, which are paths in the repository, as paths on the site; what is not on it becomes plain text."""
    on_site = page.file.src_uri
    in_repository = on_site if on_site in _outside() else f"docs/{on_site}"

    def there(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(in_repository), link[1]))
        if target == "README.md":
            target = "docs/index.md"
        uri = target.removeprefix("docs/")
        for candidate in (uri, f"{uri}/README.md"):
            if files.get_file_from_path(candidate) is not None:
                return posixpath.relpath(candidate, posixpath.dirname(on_site) or ".")
        if not (ROOT / target).exists():
            return link[1]  # which MkDocs warns of
        return f"PLAIN:{link[1]}"

    linked = _LINK.sub(there, markdown)
    return re.sub(r"\[([^\]]+)\]\(PLAIN:[^)]*\)", r"\1", linked)
