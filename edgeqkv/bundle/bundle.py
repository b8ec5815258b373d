"""Reading what is on disk after an export: a folder with a manifest, the artifacts, the tokenizer and the proof.

manifest.json      everything an app or a tool needs to know (`edgeqkv.bundle.manifest`)
TARGET.proof.npz   tokens and the original's logits, to repeat the verification anywhere
tokenizer.json     if one was given
model.onnx …       one artifact a target
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from edgeqkv.bundle.manifest import FORMAT, Manifest, TargetCard
from edgeqkv.errors import BundleError, InputError, UnsupportedError

__all__ = ["MANIFEST", "TOKENIZER", "Bundle", "checksum", "proof_name"]

MANIFEST: Final = "manifest.json"
TOKENIZER: Final = "tokenizer.json"


def proof_name(target: str) -> str:
    """The file in a bundle that holds a target's proof."""
    return f"{target}.proof.npz"


def checksum(file: Path) -> str:
    """A file's SHA-256, in hexadecimal digits."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


class Bundle:
    """A bundle on disk, whose files are what the manifest says.

    Args:
        path: the folder.
        check: whether to compare every file with its checksum.

    Raises:
        BundleError: there is no bundle, it is of another format, or a file is missing or changed.
    """

    def __init__(self, path: str | Path, *, check: bool = True) -> None:
        self.path = Path(path)
        self.manifest = _read_manifest(self.path)
        if check:
            self._check_files()

    @property
    def causal(self) -> bool:
        """Whether it holds a model that continues a text."""
        return next(iter(self.manifest.targets.values())).artifact.causal

    @property
    def targets(self) -> tuple[str, ...]:
        """The targets that it holds."""
        return tuple(self.manifest.targets)

    @property
    def tokenizer_path(self) -> Path | None:
        """Its tokenizer, if it has one."""
        card = self.manifest.tokenizer
        return self.path / card.file if card else None

    def target(self, name: str | None = None) -> TargetCard:
        """The named target; without a name, the only one.

        Raises:
            UnsupportedError: it holds no such target, or several and none was named.
        """
        held = ", ".join(self.targets)
        if name is None:
            if len(self.targets) > 1:
                raise UnsupportedError(f"{self.path} holds {held}; say which one is meant with --target")
            name = self.targets[0]
        if name not in self.manifest.targets:
            raise UnsupportedError(f"{self.path} holds no target '{name}'; it holds {held}")
        return self.manifest.targets[name]

    def check_causal(self, *, wanted: bool) -> None:
        """Raise `InputError` if it holds the other kind of model than what is ``wanted``."""
        if self.causal and not wanted:
            raise InputError(f"{self.path} holds a language model; use 'edgeqkv generate'")
        if wanted and not self.causal:
            raise InputError(
                f"{self.path} holds an encoder, which keeps no state and continues no text; use 'edgeqkv run'"
            )

    def _check_files(self) -> None:
        for name, card in self.manifest.files.items():
            file = self.path / name
            if not file.is_file():
                raise BundleError(f"{self.path} is incomplete: '{name}' is missing. Export it again")
            if file.stat().st_size != card.bytes or checksum(file) != card.sha256:
                raise BundleError(f"'{name}' in {self.path} is not the file that was exported. Export it again")


def _read_manifest(path: Path) -> Manifest:
    file = path / MANIFEST
    if not file.is_file():
        what = "there is no folder" if not path.exists() else f"there is no {MANIFEST} in"
        raise BundleError(f"{what} {path}; a bundle is a folder that 'edgeqkv export' wrote")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:  # neither UTF-8 nor JSON
        raise BundleError(f"{file} is damaged: {error}") from error
    found = content.get("format") if isinstance(content, dict) else None
    if found != FORMAT:
        again = _command(content, path) if found == 1 else "edgeqkv export MODEL"
        raise BundleError(
            f"{file} is of format {found}, and this edgeqkv reads format {FORMAT}. Export the model again: {again}"
        )
    try:
        return Manifest.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise BundleError(f"{file} is damaged: {place}: {first['msg']}") from error


def _command(content: dict[str, Any], path: Path) -> str:
    """The command that made a bundle of format 1, as far as its manifest tells."""
    try:
        cards = content["targets"]
        artifact: dict[str, Any] = next(iter(cards.values()))["artifact"]
        options = [("target", ",".join(cards))]
        options += [(name, artifact[name]) for name in ("form", "weights", "state", "context") if name in artifact]
        words = [f"--{name} {value}" for name, value in options]
        return " ".join(["edgeqkv export", str(content["model"]["source"]["file"]), *words, f"--out {path} --force"])
    except (KeyError, TypeError, AttributeError, StopIteration):
        return "edgeqkv export MODEL"
