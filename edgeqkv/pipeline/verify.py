"""Proving that what is on disk computes what the checkpoint does.

The comparison runs in a process of its own, which knows nothing but the files: it holds no copy of the original,
a runtime that crashes is a failed verification and not a lost export, and what it needs in memory is what an app
would need.
"""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeqkv import errors
from edgeqkv.backends import backend
from edgeqkv.bundle.bundle import Bundle, proof_name
from edgeqkv.bundle.manifest import Artifact, EncoderArtifact
from edgeqkv.errors import BundleError, EdgeQKVError, InputError, VerificationFailed
from edgeqkv.extras import needed_for
from edgeqkv.pipeline.encoder_proof import EncoderProof, compare_outputs, proof_inputs
from edgeqkv.pipeline.proof import Proof, Verification, compare, pieces

if TYPE_CHECKING:
    from edgeqkv.model.model import AnyModel, EncoderModel, Model, TrainedModel

__all__ = [
    "make_encoder_proof",
    "make_proof",
    "verify",
    "verify_artifact",
    "verify_encoder",
    "verify_encoder_artifact",
    "verify_package",
]

_SEED = 20260701


def verify(
    bundle: Bundle, target: str | None = None, *, against: Model | None = None, engine: str | None = None
) -> Verification:
    """Prove a bundle's target again.

    Args:
        bundle: the bundle.
        target: which of its targets; the only one if not given.
        against: the original, all of whose logits are then compared. Without it the proof that the bundle
            carries is used, which holds some of them.
        engine: what is to run it; the backend's own choice if not given.

    Raises:
        BundleError: it carries no proof (it was exported without verification) and no original was given.
        InputError: the original is not the model that was exported.
    """
    card = bundle.target(target)
    artifact, how = card.artifact, card.quantization
    if against is None:
        path = bundle.path / proof_name(artifact.target)
        if not path.exists():
            raise BundleError(f"{bundle.path} was exported without verification; say --against model.pt")
        return verify_artifact(bundle.path, artifact, Proof.load(path), engine)
    _check_same(bundle, against)
    if how is not None and how.calibration is not None:
        raise InputError(
            f"{bundle.path} was calibrated on {how.calibration}, so the checkpoint alone does not say what its weights "
            f"must be: leave out --against to use the bundle's own proof"
        )
    return _verify_against(against, bundle.path, artifact, how.head if how else None, engine)


def verify_encoder(
    bundle: Bundle, target: str | None = None, *, against: EncoderModel | None = None, engine: str | None = None
) -> Verification:
    """Prove a target of an encoder's bundle again, by the proof that it carries or against the original.

    Raises:
        BundleError: it carries no proof (it was exported without verification) and no original was given.
        InputError: the original is not the model that was exported.
    """
    card = bundle.encoder(target)
    artifact = card.artifact
    if against is None:
        path = bundle.path / proof_name(artifact.target)
        if not path.exists():
            raise BundleError(f"{bundle.path} was exported without verification; say --against model.pt")
        return verify_encoder_artifact(bundle.path, artifact, EncoderProof.load(path), engine)
    _check_same(bundle, against)
    head = card.quantization.head if card.quantization else None
    return _verify_encoder_against(against, bundle.path, artifact, head, engine)


def _check_same(bundle: Bundle, against: TrainedModel) -> None:
    exported, given = bundle.manifest.model, against.config
    # What can be told at the export and is not in the file: how pixels were normalized.
    own, theirs = (_without_normalization(config) for config in (dataclasses.asdict(given), exported.config))
    if exported.variant != str(against.variant) or own != theirs:
        raise InputError(
            f"{against.source.path.name} ({against.variant}, {given.layers} layers, {given.hidden_size} channels) is "
            f"not the model that was exported to {bundle.path} ({exported.variant}, {exported.config['layers']} "
            f"layers, {exported.config['hidden_size']} channels)"
        )


def _without_normalization(config: dict[str, Any]) -> Any:
    """The config as JSON has it, without what says how pixels were normalized."""
    input_ = config.get("input")
    kept = {key: value for key, value in input_.items() if key not in ("mean", "std")} if input_ else None
    return json.loads(json.dumps({**config, "input": kept}))


def verify_package(path: Path, against: AnyModel, engine: str | None = None) -> Verification:
    """Prove a Core ML package that edgeqkv exported, without its bundle, against the original.

    Its weights are taken to be rounded to nearest; a calibrated one differs, and only its bundle can prove it.

    Raises:
        UnsupportedError: somebody else made it.
        InputError: the original is of another variant, or no encoder where the package holds one.
    """
    with needed_for("reading a Core ML package"):
        from edgeqkv.backends.coreml.standalone import read_artifact
        from edgeqkv.model.model import EncoderModel, language_model
    artifact = read_artifact(path)
    if artifact.details["variant"] != str(against.variant):
        raise InputError(
            f"{against.source.path.name} is {against.variant}, and {path} was exported from a model that is "
            f"{artifact.details['variant']}"
        )
    if isinstance(artifact, EncoderArtifact):
        if not isinstance(against, EncoderModel):
            raise InputError(f"{against.source.path.name} is a language model, and {path} holds an encoder")
        return _verify_encoder_against(against, path.parent, artifact, None, engine)
    return _verify_against(language_model(against, "this package"), path.parent, artifact, None, engine)


def _verify_against(
    original: Model, directory: Path, artifact: Artifact, head: str | None, engine: str | None
) -> Verification:
    with needed_for("comparing with a checkpoint"):
        from edgeqkv import quantize
        from edgeqkv.model.state import StateScales
    original.check_finite()
    quantized = quantize.apply(original.with_context(artifact.context), quantize.Recipe(artifact.weights, head))
    stored = backend(artifact.target).stores(quantized)
    if scales := artifact.details.get("state_scales"):
        stored = dataclasses.replace(stored, state_scales=StateScales(scales))
    return verify_artifact(directory, artifact, make_proof(stored, artifact.context, artifact.chunk), engine)


def _verify_encoder_against(
    original: EncoderModel, directory: Path, artifact: EncoderArtifact, head: str | None, engine: str | None
) -> Verification:
    with needed_for("comparing with a checkpoint"):
        from edgeqkv import quantize
    original.check_finite()
    stored = backend(artifact.target).stores(quantize.apply_to_encoder(original, artifact.weights, head))
    return verify_encoder_artifact(directory, artifact, make_encoder_proof(stored, artifact), engine)


def make_proof(model: Model, context: int, chunk: int) -> Proof:
    """The original model's logits on random tokens that fill the context; see `edgeqkv.pipeline.proof.pieces`.

    The reference is the torch interpreter on the whole sequence at once, without a state
    (`edgeqkv.reference.decoder.sequence_logits`), in float32 on the weights as they are stored, and on keys and values
    as an int8 state rounds them.
    """
    from edgeqkv.reference.decoder import sequence_logits

    tokens = np.random.default_rng(_SEED).integers(0, model.config.vocab_size, context)
    lengths = pieces(context, chunk)
    return Proof.of(tokens, lengths, sequence_logits(model, tokens, rows=(np.cumsum(lengths) - 1).tolist()))


def make_encoder_proof(model: EncoderModel, artifact: EncoderArtifact) -> EncoderProof:
    """The original encoder's logits on random inputs; in float32 on the weights as they are stored."""
    from edgeqkv.reference.encoder import encoder_outputs

    inputs = proof_inputs(artifact.input, artifact.values, artifact.normalization)
    return EncoderProof(inputs, encoder_outputs(model, inputs))


def verify_artifact(directory: Path, artifact: Artifact, proof: Proof, engine: str | None = None) -> Verification:
    """Compare one target of a bundle folder with a proof, in a fresh process.

    Args:
        directory: the folder that the artifact's files lie in.
        artifact: the target.
        proof: what it must reproduce.
        engine: what is to run it; the backend's own choice if not given.
    """
    return _in_fresh_process(directory, artifact, proof, engine)


def verify_encoder_artifact(
    directory: Path, artifact: EncoderArtifact, proof: EncoderProof, engine: str | None = None
) -> Verification:
    """As `verify_artifact`, for an encoder."""
    return _in_fresh_process(directory, artifact, proof, engine)


def _in_fresh_process(
    directory: Path, artifact: Artifact | EncoderArtifact, proof: Proof | EncoderProof, engine: str | None
) -> Verification:
    engine = engine or backend(artifact.target).proof_engine
    with tempfile.TemporaryDirectory(prefix="edgeqkv-") as scratch:
        proof.save(Path(scratch) / "proof.npz")
        (Path(scratch) / "artifact.json").write_text(artifact.model_dump_json(), encoding="utf-8")
        kind = "encoder" if isinstance(artifact, EncoderArtifact) else "decoder"
        done = subprocess.run(
            [sys.executable, "-m", "edgeqkv.pipeline.verify", kind, str(directory.resolve()), scratch, engine],
            capture_output=True,
            text=True,
            env=_worker_environment(),
            check=False,
        )
    return _outcome(done, f"{backend(artifact.target).title} ({engine})")


def _worker_environment() -> dict[str, str]:
    # glibc raises this threshold as large blocks are freed, and keeps what it then allocates below it: without
    # a fixed value the process grows to several times what the runtime uses at once.
    return {**os.environ, "MALLOC_MMAP_THRESHOLD_": str(1 << 20)}


def _outcome(done: subprocess.CompletedProcess[str], runtime: str) -> Verification:
    if done.returncode == 0:
        return Verification.model_validate_json(done.stdout.splitlines()[-1])
    if done.returncode == EdgeQKVError.exit_code and done.stdout:
        told = json.loads(done.stdout.splitlines()[-1])
        raise getattr(errors, told["type"], EdgeQKVError)(told["message"])
    if done.returncode < 0:
        end = f"was ended by {signal.Signals(-done.returncode).name}"
    else:
        end = f"stopped with exit code {done.returncode}"
    last_words = done.stderr.strip().splitlines()[-1:] or ["and said nothing"]
    raise VerificationFailed(f"{runtime} {end} while running the exported model: {last_words[0]}")


def _work(kind: str, directory: str, scratch: str, engine: str) -> int:
    """The other process: prints a `Verification`, or the error as ``{"type", "message"}``."""
    compared = _compared_encoder if kind == "encoder" else _compared_decoder
    try:
        print(compared(Path(directory), Path(scratch), engine).model_dump_json())  # noqa: T201
    except EdgeQKVError as error:
        print(json.dumps({"type": type(error).__name__, "message": str(error)}))  # noqa: T201
        return EdgeQKVError.exit_code
    return 0


def _compared_decoder(directory: Path, scratch: Path, engine: str) -> Verification:
    artifact = Artifact.model_validate_json((scratch / "artifact.json").read_text(encoding="utf-8"))
    session = backend(artifact.target).open(directory, artifact, engine)
    return compare(session, Proof.load(scratch / "proof.npz"), engine)


def _compared_encoder(directory: Path, scratch: Path, engine: str) -> Verification:
    artifact = EncoderArtifact.model_validate_json((scratch / "artifact.json").read_text(encoding="utf-8"))
    session = backend(artifact.target).open_encoder(directory, artifact, engine)
    return compare_outputs(session, EncoderProof.load(scratch / "proof.npz"), engine)


if __name__ == "__main__":
    sys.exit(_work(*sys.argv[1:]))
