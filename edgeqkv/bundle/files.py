"""The files of a bundle: each that is used is listed in the manifest, plain, inside the folder, and as exported."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Final

from edgeqkv.bundle.manifest import Manifest
from edgeqkv.errors import BundleError

__all__ = ["CHAT_TEMPLATE", "TOKENIZER", "TOKENIZER_CONFIG", "check_files", "checksum", "is_plain", "proof_name"]

TOKENIZER: Final = "tokenizer.json"
TOKENIZER_CONFIG: Final = "tokenizer_config.json"
CHAT_TEMPLATE: Final = "chat_template.jinja"


def proof_name(target: str) -> str:
    """The file in a bundle that holds a target's proof."""
    return f"{target}.proof.npz"


def checksum(file: Path) -> str:
    """A file's SHA-256, in hexadecimal digits."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def is_plain(file: Path) -> bool:
    """Whether there is a file of bytes, itself and not by way of a symbolic link.

    Raises:
        OSError: there is nothing of this name, or it cannot be looked at.
    """
    return stat.S_ISREG(file.lstat().st_mode)


def check_files(folder: Path, manifest: Manifest) -> None:
    """Compare the files of a bundle with what its manifest says of them, and see that it says it of all that are used.

    Raises:
        BundleError: one is missing, changed, no plain file inside the folder, or used and not listed.
    """
    try:
        _check(folder, manifest)
    except OSError as error:
        raise BundleError(
            f"{error.filename} cannot be read: {error.strerror}. Copy or export {folder} again"
        ) from error


def _check(folder: Path, manifest: Manifest) -> None:
    for name, card in manifest.files.items():
        file = _plain_file(folder, name)
        if file.stat().st_size != card.bytes or checksum(file) != card.sha256:
            raise BundleError(f"'{name}' in {folder} is not the file that was exported. Export it again")
    for name in _used(folder, manifest):
        if name not in manifest.files:
            raise BundleError(
                f"{name!r} in {folder} is used, and the manifest does not list it with its checksum, so that it may be "
                f"anything. Export it again"
            )


def _used(folder: Path, manifest: Manifest) -> Iterator[str]:
    """Every file that something reads of this bundle. Of a package, which is a folder, all that lie in it."""
    if manifest.tokenizer is not None:
        yield manifest.tokenizer.file
        yield from (name for name in (TOKENIZER_CONFIG, CHAT_TEMPLATE) if os.path.lexists(folder / name))
    for name, card in manifest.targets.items():
        if os.path.lexists(folder / proof_name(name)):
            yield proof_name(name)
        for part in card.artifact.files:
            if part in manifest.files or not _inside(folder, part).is_dir():
                yield part
                continue
            below = [entry for entry in sorted((folder / part).rglob("*")) if entry.is_symlink() or not entry.is_dir()]
            yield from (entry.relative_to(folder).as_posix() for entry in below) if below else (part,)


def _plain_file(folder: Path, name: str) -> Path:
    """The file of this name in a bundle, if it is one.

    Raises:
        BundleError: it is missing, or no plain file.
    """
    file = _inside(folder, name)
    try:
        plain = is_plain(file)
    except OSError as error:
        raise BundleError(f"{folder} is incomplete: '{name}' is missing. Export it again") from error
    if not plain:
        raise BundleError(f"'{name}' in {folder} is no plain file, and nothing else is read. Export it again")
    return file


def _inside(folder: Path, name: str) -> Path:
    """Where a name of a manifest leads: below the folder, through no symbolic link.

    Raises:
        BundleError: it leads elsewhere.
    """
    path = PurePosixPath(name)
    plain = bool(path.parts) and path.as_posix() == name and name.isprintable()
    if not plain or ".." in path.parts or PureWindowsPath(name).anchor:
        raise BundleError(f"{folder} names the file {name!r}, which is not below its own folder. Export it again")
    for parent in path.parents[:-1]:
        if os.path.islink(folder / parent):  # noqa: PTH114  says no where a name is too long
            raise BundleError(
                f"'{parent}' in {folder} is a symbolic link, and a bundle lies in its own folder. Export it again"
            )
    return folder / name
