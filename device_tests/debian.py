"""Packages of Debian, unpacked into a folder of the cache.

Nothing is installed: no root rights are needed, and the machine's own packages stay as they are. What apt fetches is
checked against Debian's signed index.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

__all__ = ["Unavailable", "cached", "check_machine", "download", "fetch", "source", "unpack"]

_KEYRING: Final = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_ARCHIVE: Final = "https://deb.debian.org/debian"


class Unavailable(Exception):
    """What is needed cannot be had on this machine; the message says why."""


def source(suite: str, architecture: str) -> str:
    """The line that tells apt of a suite (``trixie``, ``bookworm-backports``)."""
    return f"deb [arch={architecture} signed-by={_KEYRING}] {_ARCHIVE} {suite} main\n"


def cached(name: str, recipe: str, make: Callable[[Path, Path], None]) -> Path:
    """The folder that ``make`` fills, from the cache or else made for it, whole or not at all.

    Args:
        name: what the folder's name begins with.
        recipe: all that decides what is in it; another recipe is another folder.
        make: called with a folder for what it downloads, and the one to fill.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgeqkv"
    folder = cache / f"{name}-{hashlib.sha256(recipe.encode()).hexdigest()[:12]}"
    if not folder.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as place:
            made = Path(place) / "made"
            made.mkdir()
            make(Path(place), made)
            made.rename(folder)
    return folder


def check_machine(what: str, architecture: str = "amd64") -> None:
    """See that this machine can unpack Debian's packages of its own architecture.

    Raises:
        Unavailable: it cannot; ``what`` is what they are for.
    """
    for tool in ("apt-get", "dpkg", "dpkg-deb", "tar"):
        if shutil.which(tool) is None:
            raise Unavailable(f"'{tool}' is missing: {what} comes from Debian's packages")
    if not _KEYRING.is_file():
        raise Unavailable(f"{_KEYRING} is missing: install the package debian-archive-keyring")
    told = subprocess.run(["dpkg", "--print-architecture"], capture_output=True, text=True, check=True).stdout.strip()
    if told != architecture:
        raise Unavailable(f"{what} is fetched for {architecture} machines, and this is {told}")


def fetch(
    place: Path, sources: Sequence[str], packages: Sequence[str], *, architectures: Sequence[str], whole: bool
) -> list[Path]:
    """Download packages into a folder below ``place``, with a configuration of apt that is ours alone.

    Args:
        place: an empty folder.
        sources: lines of `source`.
        packages: their names.
        architectures: the first is the packages' own; what is of another is named ``NAME:ARCHITECTURE``.
        whole: with all that they depend on.

    Raises:
        Unavailable: the network does not give them.
    """
    archives, lists = place / "apt" / "archives", place / "apt" / "lists"
    for folder in (archives / "partial", lists / "partial"):
        folder.mkdir(parents=True)
    listed, status = place / "sources.list", place / "status"
    listed.write_text("".join(sources))
    status.touch()  # nothing is installed, so nothing that is depended on is taken to be there
    settings = {
        "Dir::Etc::SourceList": listed,
        "Dir::Etc::SourceParts": "/dev/null",
        "Dir::State": place / "apt",
        "Dir::State::Lists": lists,
        "Dir::State::Status": status,
        "Dir::Cache": place / "apt",
        "Dir::Cache::Archives": archives,
        "APT::Architecture": architectures[0],
        "APT::Sandbox::User": "",
        "APT::Update::Error-Mode": "any",
        "Acquire::https::Timeout": 20,
        "Acquire::Languages": "none",
        "Debug::NoLocking": 1,
    }
    options = [part for name, value in settings.items() for part in ("-o", f"{name}={value}")]
    options += [part for name in architectures[1:] for part in ("-o", f"APT::Architectures::={name}")]
    get = ["-y", "--no-install-recommends", "--download-only", "install"] if whole else ["download"]
    download(["apt-get", "-q", *options, "update"], "Debian's package index")
    download(["apt-get", "-q", *options, *get, *packages], "Debian's packages", archives)
    return sorted(archives.glob("*.deb"))


def download(command: Sequence[str], what: str, folder: Path | None = None) -> None:
    """Run a command that fetches something, in a folder.

    Raises:
        Unavailable: it failed.
    """
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
        raise Unavailable(f"{what} could not be downloaded: {' '.join(last) or 'no reason given'}")


def unpack(package: Path, made: Path, parts: Sequence[str] = (), *, strip: int = 0) -> None:
    """Unpack a package, or only the ``parts`` of it (names with wildcards), without its documentation.

    ``strip`` is how many folders are taken off the front of every name.
    """
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", package], stdout=subprocess.PIPE) as content:
        wanted = ["--wildcards", *(f"./{part}" for part in parts)] if parts else []
        options = ["--exclude=./usr/share/doc", "--exclude=./usr/share/man", f"--strip-components={strip}"]
        subprocess.run(["tar", "-x", "-C", made, *options, *wanted], stdin=content.stdout, check=True)
