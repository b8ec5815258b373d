"""Writing a bundle, which appears whole or not at all: it is made in a folder beside its place and renamed into it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from edgeqkv.bundle.bundle import MANIFEST, checksum
from edgeqkv.bundle.manifest import FORMAT, FileCard, Manifest, ModelCard, TargetCard, TokenizerCard
from edgeqkv.errors import BundleError

__all__ = ["Staged", "staged"]


class Staged:
    """A bundle in the making, in a folder that is not yet in its place."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write_manifest(
        self, version: str, model: ModelCard, tokenizer: TokenizerCard | None, targets: Mapping[str, TargetCard]
    ) -> None:
        """Write the manifest, with the checksums of all that lies in the folder by now."""
        files = {
            file.relative_to(self.path).as_posix(): FileCard(bytes=file.stat().st_size, sha256=checksum(file))
            for file in sorted(self.path.rglob("*"))
            if file.is_file()
        }
        manifest = Manifest(
            format=FORMAT, edgeqkv=version, model=model, tokenizer=tokenizer, targets=dict(targets), files=files
        )
        (self.path / MANIFEST).write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")


@contextmanager
def staged(out: Path, *, overwrite: bool) -> Iterator[Staged]:
    """A folder beside ``out`` that takes its place if all goes well, and vanishes if not.

    Raises:
        BundleError: something is at ``out`` and must not be replaced, or the disk refuses.
    """
    _check_place(out, overwrite)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
        try:
            folder.chmod(0o755)  # mkdtemp's folders are private, a bundle is not
            yield Staged(folder)
            _swap_in(folder, out)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    except OSError as error:
        raise BundleError(
            f"cannot write the bundle {out}: {error.strerror or error}. Nothing was left behind"
        ) from error


def _check_place(out: Path, overwrite: bool) -> None:
    if not (out.exists() or out.is_symlink()):
        return
    if not overwrite:
        raise BundleError(f"{out} exists already; give another --out, or --force to replace it")
    if not (out / MANIFEST).is_file() or out.is_symlink():
        raise BundleError(f"{out} is not a bundle of edgeqkv, so it is not replaced even with --force")


def _swap_in(folder: Path, out: Path) -> None:
    if not out.exists():
        folder.rename(out)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{out.name}.old.", dir=out.parent))
    try:
        out.rename(old / out.name)
        try:
            folder.rename(out)
        except OSError:
            (old / out.name).rename(out)
            raise
    finally:
        shutil.rmtree(old, ignore_errors=True)
