"""Reading what is on disk after an export: a folder with a manifest, the artifacts, the tokenizer and the proof.

manifest.json      everything an app or a tool needs to know (`edgeqkv.bundle.manifest`)
TARGET.proof.npz   tokens and the original's logits, to repeat the verification anywhere
tokenizer.json     if one was given; beside it what chat takes (tokenizer_config.json, chat_template.jinja)
model.onnx …       one artifact a target
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from edgeqkv.bundle.files import check_files, is_plain
from edgeqkv.bundle.manifest import FORMAT, Manifest, TargetCard
from edgeqkv.errors import BundleError, InputError, UnsupportedError
from edgeqkv.model.config import config_of
from edgeqkv.reading import is_file, is_folder, of_field

__all__ = ["MANIFEST", "Bundle", "is_bundle"]

MANIFEST: Final = "manifest.json"


def is_bundle(path: str | Path) -> bool:
    """Whether a path is to be read as a bundle: it is a folder, and not one with a model to be exported."""
    return is_folder(path) and (is_file(Path(path) / MANIFEST) or not is_file(Path(path) / "config.json"))


class Bundle:
    """A bundle on disk, whose files are what the manifest says.

    Args:
        path: the folder.
        check: whether to look at the files (`edgeqkv.bundle.files`): not where they are not read.

    Raises:
        BundleError: there is no bundle, it is of another format, or a file is missing, changed, not listed or no
            plain file.
    """

    def __init__(self, path: str | Path, *, check: bool = True) -> None:
        self.path = Path(path)
        self.manifest = _read_manifest(self.path)
        if check:
            check_files(self.path, self.manifest)

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


def _read_manifest(path: Path) -> Manifest:
    file = path / MANIFEST
    try:
        plain = is_plain(file)
    except OSError as error:
        what = "there is no folder" if not path.exists() else f"there is no {MANIFEST} in"
        raise BundleError(f"{what} {path}; a bundle is a folder that 'edgeqkv export' wrote") from error
    if not plain:
        raise BundleError(f"{file} is no plain file, and nothing else is read. Copy or export the bundle again")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # neither UTF-8 nor JSON, or nested without end
        raise BundleError(f"{file} is damaged: {error}") from error
    found = content.get("format") if isinstance(content, dict) else None
    if found != FORMAT:
        again = _command(content, path) if found == 1 else "edgeqkv export MODEL"
        raise BundleError(
            f"{file} is of format {found}, and this edgeqkv reads format {FORMAT}. Export the model again: {again}"
        )
    try:
        manifest = Manifest.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        raise BundleError(f"{file} is damaged: {of_field(first['loc'], first['msg'])}") from error
    if not manifest.targets:
        raise BundleError(f"{file} is damaged: it names no target. Export the model again")
    _check_kinds(file, manifest)
    return manifest


def _check_kinds(file: Path, manifest: Manifest) -> None:
    """See that the model has dimensions, and that every artifact is of its kind."""
    try:
        kind = config_of(manifest.model.config).kind
    except UnsupportedError as error:
        raise BundleError(f"{file} is damaged: {error}. Export the model again") from error
    for name, card in manifest.targets.items():
        if not (manifest.model.kind == kind == ("decoder" if card.artifact.causal else "encoder")):
            raise BundleError(
                f"{file} is damaged: '{name}' is no artifact of a model with its dimensions. Export the model again"
            )


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
