"""What of an old bundle is ours to replace: the files that its manifest lists, and no others."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

from edgeqkv.bundle.bundle import MANIFEST
from edgeqkv.errors import BundleError

__all__ = ["Place", "discard"]

_NAMED = 3


class Place:
    """Where a bundle is to be, and the bundle that is there already, if it may be replaced.

    Args:
        path: the place.
        shown: the place as the user calls it.
        overwrite: whether a bundle there may be replaced.

    Raises:
        BundleError: what is there must not be replaced.
    """

    def __init__(self, path: Path, shown: Path, overwrite: bool) -> None:
        self.path = path
        self._shown = shown
        self._overwrite = overwrite
        self.old: tuple[int, int] | None = None
        self.check()

    def check(self) -> None:
        """Look at what is there now, and remember which folder it is."""
        self.old = None
        if not os.path.lexists(self.path):
            return
        if not self._overwrite:
            raise BundleError(f"{self._shown} exists already; give another --out, or --force to replace it")
        self._check_ours(self.path)
        self.old = _identity(self.path)

    def check_still(self, where: Path) -> None:
        """Raise `BundleError` unless ``where`` is the bundle that was there, moved, and nothing was added to it."""
        if _identity(where) != self.old:
            raise self.appeared()
        self._check_ours(where)

    def appeared(self, then: str = "") -> BundleError:
        """The error when something has come to the place during the export."""
        return BundleError(
            f"something else has appeared at {self._shown} during the export, and is left as it is; give another "
            f"--out. No bundle was written.{then}"
        )

    def _check_ours(self, where: Path) -> None:
        listed = _listed(where)
        if listed is None:
            raise BundleError(f"{self._shown} is not a bundle of edgeqkv, so it is not replaced even with --force")
        if foreign := _named(_unlisted(where, listed)):
            raise BundleError(
                f"{self._shown} holds {foreign}, which edgeqkv did not write, so it is not replaced even with --force; "
                f"move that elsewhere, or give another --out"
            )


def discard(folder: Path) -> None:
    """Remove a bundle that has been replaced. The manifest goes last, so that it can be done again if interrupted.

    Raises:
        BundleError: something in it is not the bundle's; nothing was removed.
    """
    listed = _listed(folder)
    if listed is None:
        raise BundleError(f"{folder} is not what edgeqkv left there; move it elsewhere")
    if foreign := _named(_unlisted(folder, listed)):
        raise BundleError(
            f"{folder} is a bundle that was replaced, and holds {foreign}, which edgeqkv did not write; move that "
            f"elsewhere"
        )
    for name in listed:
        (folder / name).unlink(missing_ok=True)
    for name in sorted(_folders(listed), key=len, reverse=True):
        if (folder / name).is_dir():
            (folder / name).rmdir()
    (folder / MANIFEST).unlink()
    folder.rmdir()


def _listed(folder: Path) -> frozenset[str] | None:
    """The files that a bundle's manifest lists, of whatever format it is; None if the folder is no bundle."""
    file = folder / MANIFEST
    if not (_is(stat.S_ISDIR, folder) and _is(stat.S_ISREG, file)):
        return None
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        return None
    match content:
        case {"format": int(), "edgeqkv": str(), "files": dict(files)}:
            return frozenset(name for name in files if _is_plain(name))
    return None


def _is_plain(name: str) -> bool:
    """Whether a listed name can be only of a file inside the folder."""
    parts = PurePosixPath(name).parts
    return bool(parts) and "/".join(parts) == name and not {"/", "..", "."} & {*parts} and not set("\\:\0") & {*name}


def _unlisted(folder: Path, listed: frozenset[str], above: str = "") -> Iterator[str]:
    """What lies in a bundle's folder beside the listed files and the folders that they need; links are not followed."""
    folders = _folders(listed)
    for entry in sorted(os.scandir(folder / above), key=lambda entry: entry.name):
        name = f"{above}{entry.name}"
        if entry.is_dir(follow_symlinks=False) and name in folders:
            yield from _unlisted(folder, listed, f"{name}/")
        elif not (entry.is_file(follow_symlinks=False) and (name in listed or name == MANIFEST)):
            yield name


def _folders(listed: frozenset[str]) -> set[str]:
    return {str(parent) for name in listed for parent in PurePosixPath(name).parents if parent.name}


def _named(names: Iterator[str]) -> str:
    found = list(names)
    more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
    return ", ".join(f"'{name}'" for name in found[:_NAMED]) + more


def _identity(path: Path) -> tuple[int, int]:
    status = path.lstat()
    return status.st_dev, status.st_ino


def _is(kind: Callable[[int], bool], path: Path) -> bool:
    return os.path.lexists(path) and kind(path.lstat().st_mode)
