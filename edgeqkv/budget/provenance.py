"""Where a report comes from, for its foot: of which file, when, by what, with which command."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from shlex import join

from edgeqkv.bundle.bundle import MANIFEST, is_bundle
from edgeqkv.extras import installed_version
from edgeqkv.reading import is_file

__all__ = ["Provenance", "provenance"]

_HUB_CONFIG = "config.json"


@dataclass(frozen=True)
class Provenance:
    """A report's origin.

    Attributes:
        date: of the day, in UTC.
        version: of edgeqkv.
        command: what repeats it.
        file: the file that identifies the subject: the checkpoint itself, a bundle's manifest (which has the checksums
            of everything else), a model directory's configuration; empty where there is none.
        sha256: of that file.
    """

    date: str
    version: str
    command: str
    file: str = ""
    sha256: str = ""


def provenance(command: Sequence[str], subject: Path) -> Provenance:
    """The origin of a report that was made just now.

    Args:
        command: the words of the command.
        subject: what the report is of.
    """
    file = subject if is_file(subject) else subject / (MANIFEST if is_bundle(subject) else _HUB_CONFIG)
    digest = ""
    if is_file(file):
        with file.open("rb") as content:
            digest = hashlib.file_digest(content, "sha256").hexdigest()
    return Provenance(
        date=f"{datetime.now(UTC):%Y-%m-%d}",
        version=installed_version("edgeqkv") or "",
        command=join(command),
        file=file.name if digest else "",
        sha256=digest,
    )
