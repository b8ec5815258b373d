"""Writing a bundle, which appears whole or not at all: it is made in a folder beside its place and renamed into it.

What it replaces are the files that the old bundle's manifest lists, and nothing else that lies there or comes to lie
there meanwhile. Beside ``build/phone``:

    build/.phone.edgeqkv/    a workplace: whoever finds it unlocked knows that its maker is dead
        new/                 the bundle in the making, and after the two have changed places the old one
        old/                 the old one, on systems where folders cannot change places in one step
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Final

from edgeqkv.bundle.bundle import MANIFEST
from edgeqkv.bundle.files import checksum
from edgeqkv.bundle.manifest import FORMAT, FileCard, Manifest, ModelCard, TargetCard, TokenizerCard
from edgeqkv.bundle.replacing import Place, discard
from edgeqkv.disk.atomic import exchange, rename_new
from edgeqkv.disk.workplace import Busy, beside, made_beside, sweep, workplace
from edgeqkv.errors import BundleError

__all__ = ["Staged", "staged"]

_NEW: Final = "new"
_OLD: Final = "old"


class Staged:
    """A bundle in the making, in a folder that is not yet in its place."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write_manifest(
        self, version: str, model: ModelCard, tokenizer: TokenizerCard | None, targets: Mapping[str, TargetCard]
    ) -> None:
        """Write the manifest, with the checksums of all that lies in the folder by now. Nothing is written after it."""
        files = {
            file.relative_to(self.path).as_posix(): FileCard(bytes=file.stat().st_size, sha256=checksum(file))
            for file in sorted(self.path.rglob("*"))
            if file.is_file()
        }
        manifest = Manifest(
            format=FORMAT, edgeqkv=version, model=model, tokenizer=tokenizer, targets=dict(targets), files=files
        )
        partial_ = self.path / f"{MANIFEST}.partial"
        partial_.write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")
        partial_.rename(self.path / MANIFEST)


@contextmanager
def staged(out: Path, *, overwrite: bool) -> Iterator[Staged]:
    """A folder beside ``out`` that takes its place if all goes well, and vanishes if not.

    Raises:
        BundleError: something is at ``out`` and must not be replaced, somebody else writes there, or the disk refuses.
    """
    try:
        with ExitStack() as stack:
            path = _absolute(out)
            place = Place(path, out, overwrite)
            stack.enter_context(_parents(path))
            work = stack.enter_context(workplace(beside(path)))
            _recover(work, path)
            sweep(path.parent, beside(Path("*")).name, _recover_other)
            place.check()  # again, for what was recovered
            stack.callback(_recover, work, path)
            new = work / _NEW
            new.mkdir()
            yield Staged(new)
            _swap_in(new, place)
    except Busy as error:
        raise BundleError(f"cannot write the bundle {out}: {error}, or give another --out") from error
    except OSError as error:
        raise BundleError(
            f"cannot write the bundle {out}: {error.strerror or error}. Nothing was left behind"
        ) from error


def _absolute(out: Path) -> Path:
    """The place, however the current folder and links above it are called."""
    return out.resolve() if out.name in ("", "..") else out.parent.resolve() / out.name


@contextmanager
def _parents(path: Path) -> Iterator[None]:
    """The folders above it, which are gone afterwards if they were made for nothing."""
    made = [folder for folder in path.parents if not folder.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        with suppress(OSError):  # the first that holds something ends it
            for folder in made:
                folder.rmdir()


def _swap_in(new: Path, place: Place) -> None:
    """Move the bundle to its place; what was there is in the workplace then, and known to be the bundle to replace."""
    old = new.with_name(_OLD)
    if place.old is None:
        try:
            rename_new(new, place.path)
        except FileExistsError as error:
            raise place.appeared() from error
    elif exchange(new, place.path):
        _check_or(place, new, partial(exchange, new, place.path))
    else:
        place.path.rename(old)
        _check_or(place, old, partial(rename_new, old, place.path))
        try:
            rename_new(new, place.path)
        except FileExistsError as error:
            raise place.appeared(f" The old bundle is in {old}") from error
        except OSError:
            rename_new(old, place.path)
            raise


def _recover(work: Path, path: Path) -> None:
    """Put in order what an export left that was interrupted, or that is ending.

    Raises:
        BundleError: what it left cannot be told from what is somebody else's.
    """
    new, old = work / _NEW, work / _OLD
    if old.exists():
        if not os.path.lexists(path):
            rename_new(old, path)
        elif new.exists():
            raise BundleError(
                f"{old} is the bundle that was at {path} when an export was interrupted, and something else is at "
                f"{path} now; move one of them elsewhere"
            )
        else:
            discard(old)
    if (new / MANIFEST).exists():
        discard(new)
    else:
        shutil.rmtree(new, ignore_errors=True)


def _recover_other(work: Path) -> None:
    """The same for another bundle's workplace in the same folder."""
    with suppress(BundleError):  # which that bundle's next export will be told
        _recover(work, work.with_name(made_beside(work)))


def _check_or(place: Place, where: Path, undo: Callable[[], object]) -> None:
    try:
        place.check_still(where)
    except BundleError:
        undo()
        raise
