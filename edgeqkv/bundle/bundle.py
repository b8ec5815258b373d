"""What is on disk after an export: a folder with a manifest, the artifacts, the tokenizer and the proof.

    manifest.json      everything an app or a tool needs to know (`Manifest`)
    TARGET.proof.npz   tokens and the original's logits, to repeat the verification anywhere
    tokenizer.json     if one was given
    model.onnx …       one artifact a target

A bundle appears whole or not at all: it is written to a folder beside its final place and renamed into it.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, ValidationError

from edgeqkv.backends import Backend, backend
from edgeqkv.bundle.manifest import Artifact, EncoderArtifact
from edgeqkv.errors import BundleError, InputError, UnsupportedError
from edgeqkv.pipeline.proof import Verification
from edgeqkv.run.perplexity import Quality
from edgeqkv.run.session import EncoderSession, Session

__all__ = [
    "MANIFEST",
    "TOKENIZER",
    "Bundle",
    "EncoderCard",
    "FileCard",
    "Manifest",
    "ModelCard",
    "QuantizationCard",
    "Staged",
    "TargetCard",
    "TokenizerCard",
    "proof_name",
    "staged",
]

FORMAT: Final = 1
MANIFEST, TOKENIZER = "manifest.json", "tokenizer.json"


def proof_name(target: str) -> str:
    """The file in a bundle that holds a target's proof."""
    return f"{target}.proof.npz"


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ModelCard(_Record):
    """The model: its variant in the canonical spelling, its dimensions and where it came from."""

    kind: str
    variant: str
    parameters: int
    config: dict[str, Any]
    source: dict[str, Any]
    notes: tuple[str, ...]


class TokenizerCard(_Record):
    """The tokenizer file and the ids that begin and end a text."""

    file: str
    size: int
    bos_id: int | None
    eos_ids: tuple[int, ...]


class FileCard(_Record):
    """What a file must be to be the one that was written."""

    bytes: int
    sha256: str


class QuantizationCard(_Record):
    """How the weights were quantized: ``nearest``, ``gptq`` or ``gptq+tuned``, the steps of the tuning, and the name of
    the text for the latter two."""

    weights: str
    head: str
    method: str
    tuning: int = 0
    calibration: str | None


class TargetCard(_Record):
    """One target: the artifact, how its weights were quantized, how it was verified (unless that was switched off), and
    its perplexity on a text, if one was given."""

    artifact: Artifact
    quantization: QuantizationCard | None = None
    verification: Verification | None
    quality: Quality | None = None


class EncoderCard(_Record):
    """One target of an encoder: the artifact, how its weights were quantized, and how it was verified."""

    artifact: EncoderArtifact
    quantization: QuantizationCard | None = None
    verification: Verification | None


class Manifest(_Record):
    """``manifest.json``. ``format`` counts up when its meaning changes."""

    format: int
    edgeqkv: str
    model: ModelCard
    tokenizer: TokenizerCard | None
    targets: dict[str, TargetCard] | dict[str, EncoderCard]
    files: dict[str, FileCard]


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
            InputError: it holds an encoder, and not a language model.
        """
        card = self._card(name)
        if isinstance(card, TargetCard):
            return card
        raise InputError(f"{self.path} holds an encoder, which keeps no state and continues no text; use 'edgeqkv run'")

    def encoder(self, name: str | None = None) -> EncoderCard:
        """The named target of an encoder; without a name, the only one.

        Raises:
            UnsupportedError: it holds no such target, or several and none was named.
            InputError: it holds a language model.
        """
        card = self._card(name)
        if isinstance(card, EncoderCard):
            return card
        raise InputError(f"{self.path} holds a language model; use 'edgeqkv generate'")

    def _card(self, name: str | None) -> TargetCard | EncoderCard:
        held = ", ".join(self.targets)
        if name is None:
            if len(self.targets) > 1:
                raise UnsupportedError(f"{self.path} holds {held}; say which one is meant with --target")
            name = self.targets[0]
        if name not in self.manifest.targets:
            raise UnsupportedError(f"{self.path} holds no target '{name}'; it holds {held}")
        return self.manifest.targets[name]

    def session(self, target: str | None = None, engine: str | None = None) -> Session:
        """Open a target for running.

        Raises:
            UnsupportedError: there is no such target or engine.
            MissingExtra: its runtime is not installed.
        """
        artifact = self.target(target).artifact
        runtime = backend(artifact.target)
        return runtime.open(self.path, artifact, _engine(runtime, engine))

    def encoder_session(self, target: str | None = None, engine: str | None = None) -> EncoderSession:
        """Open a target of an encoder for running.

        Raises:
            UnsupportedError: there is no such target or engine.
            MissingExtra: its runtime is not installed.
        """
        artifact = self.encoder(target).artifact
        runtime = backend(artifact.target)
        return runtime.open_encoder(self.path, artifact, _engine(runtime, engine))

    def _check_files(self) -> None:
        for name, card in self.manifest.files.items():
            file = self.path / name
            if not file.is_file():
                raise BundleError(f"{self.path} is incomplete: '{name}' is missing. Export it again")
            if file.stat().st_size != card.bytes or _sha256(file) != card.sha256:
                raise BundleError(f"'{name}' in {self.path} is not the file that was exported. Export it again")


def _engine(runtime: Backend, asked: str | None) -> str:
    engine = asked or runtime.engines[0]
    if engine not in runtime.engines:
        raise UnsupportedError(f"{runtime.title} has no engine '{engine}'; it has {', '.join(runtime.engines)}")
    return engine


class Staged:
    """A bundle in the making, in a folder that is not yet in its place."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write_manifest(
        self,
        version: str,
        model: ModelCard,
        tokenizer: TokenizerCard | None,
        targets: dict[str, TargetCard] | dict[str, EncoderCard],
    ) -> None:
        """Write the manifest, with the checksums of all that lies in the folder by now."""
        files = {
            file.relative_to(self.path).as_posix(): FileCard(bytes=file.stat().st_size, sha256=_sha256(file))
            for file in sorted(self.path.rglob("*"))
            if file.is_file()
        }
        manifest = Manifest(
            format=FORMAT, edgeqkv=version, model=model, tokenizer=tokenizer, targets=targets, files=files
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


def _read_manifest(path: Path) -> Manifest:
    file = path / MANIFEST
    if not file.is_file():
        what = "there is no folder" if not path.exists() else f"there is no {MANIFEST} in"
        raise BundleError(f"{what} {path}; a bundle is a folder that 'edgeqkv export' wrote")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:  # neither UTF-8 nor JSON
        raise BundleError(f"{file} is damaged: {error}") from error
    told = content.get("format") if isinstance(content, dict) else None
    if told != FORMAT:
        raise BundleError(f"{file} is of format {told}, and this edgeqkv reads format {FORMAT}. Export the model again")
    try:
        return Manifest.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise BundleError(f"{file} is damaged: {place}: {first['msg']}") from error


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
