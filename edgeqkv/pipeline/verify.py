"""Proving that what is on disk computes what the checkpoint does."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from edgeqkv.backends import backend
from edgeqkv.bundle.bundle import Bundle
from edgeqkv.bundle.files import proof_name
from edgeqkv.bundle.manifest import Artifact, TargetCard, Verification
from edgeqkv.errors import BundleError, InputError
from edgeqkv.extras import needed_for
from edgeqkv.pipeline.proof import Proof, load_proof, make_proof
from edgeqkv.pipeline.worker import compare_in_worker
from edgeqkv.progress import Progress, silent, within

if TYPE_CHECKING:
    from edgeqkv.model.model import Model

__all__ = ["ORIGINAL", "verify", "verify_artifact", "verify_package"]

ORIGINAL: Final = "computing the original's logits"
"""What the stage is called in which the reference works."""


def verify(
    bundle: Bundle,
    target: str | None = None,
    *,
    against: Model | None = None,
    engine: str | None = None,
    on_progress: Progress = silent,
) -> Verification:
    """Prove a bundle's target again.

    Args:
        bundle: the bundle.
        target: which of its targets; the only one if not given.
        against: the original, all of whose logits are then compared. Without it the proof that the bundle
            carries is used, which of a language model holds some of them.
        engine: what is to run it; the one that computes what is stored if not given.
        on_progress: told of the progress.

    Raises:
        BundleError: it carries no proof (it was exported without verification) and no original was given.
        InputError: the original is not the model that was exported.
    """
    card = bundle.target(target)
    if against is not None:
        _check_same(bundle, against)
        return _verify_against(against, bundle.path, card, str(bundle.path), engine, on_progress)
    path = bundle.path / proof_name(card.artifact.target)
    if not path.exists():
        raise BundleError(f"{bundle.path} was exported without verification; say --against model.pt")
    return verify_artifact(bundle.path, card.artifact, load_proof(path), engine, on_progress)


def verify_package(
    path: Path, target: str, against: Model, engine: str | None = None, on_progress: Progress = silent
) -> Verification:
    """Prove a file that a target wrote and that describes itself, without its bundle, against the original.

    Its weights are taken to be rounded to nearest; a calibrated one differs, and only its bundle can prove it.

    Raises:
        UnsupportedError: somebody else made it.
        InputError: the original is another model.
    """
    artifact = backend(target).describe(path)
    if artifact.details["variant"] != str(against.variant):
        raise InputError(
            f"{against.source.path.name} is {against.variant}, and {path} was exported from a model that is "
            f"{artifact.details['variant']}"
        )
    if artifact.causal != against.causal:
        kinds = ("a language model", "an encoder") if against.causal else ("an encoder", "a language model")
        raise InputError(f"{against.source.path.name} is {kinds[0]}, and {path} holds {kinds[1]}")
    card = TargetCard(artifact=artifact, verification=None)
    return _verify_against(against, path.parent, card, str(path), engine, on_progress)


def verify_artifact(
    directory: Path, artifact: Artifact, proof: Proof, engine: str | None = None, on_progress: Progress = silent
) -> Verification:
    """Compare one target of a bundle folder with a proof, in a fresh process.

    Args:
        directory: the folder that the artifact's files lie in.
        artifact: the target.
        proof: what it must reproduce.
        engine: what is to run it; the one that computes what is stored if not given.
        on_progress: told of the progress.
    """
    target = backend(artifact.target)
    engine = engine or target.proof_engine
    stage = f"verifying {target.title}" + ("" if engine == target.proof_engine else f" in {engine}")
    on_progress(stage, None)
    return compare_in_worker(directory, artifact, proof, engine, within(on_progress, stage))


def _check_same(bundle: Bundle, against: Model) -> None:
    exported, given = bundle.manifest.model, against.config
    # What can be said at the export and is not in the file: how pixels were normalized.
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


def _verify_against(
    original: Model, directory: Path, card: TargetCard, place: str, engine: str | None, on_progress: Progress
) -> Verification:
    with needed_for("comparing with a checkpoint"):
        from edgeqkv import quantize
        from edgeqkv.model.schemes import with_block
        from edgeqkv.model.state import StateScales
        from edgeqkv.quantize import QuantConfig
    artifact, how = card.artifact, card.quantization
    if how is not None and how.calibration is not None:
        raise InputError(
            f"{place} was calibrated on {how.calibration}, so the checkpoint alone does not say what its weights must "
            f"be: leave out --against to use the bundle's own proof"
        )
    original.check_finite()
    shortened = original if artifact.context is None else original.with_context(artifact.context, allow_longer=True)
    schemes = with_block(backend(artifact.target).schemes, artifact.block)
    config = QuantConfig(artifact.weights, how.head if how else None, schemes=schemes)
    stored = quantize.apply(shortened, config)
    if scales := artifact.details.get("state_scales"):
        if missing := {tensor.name for tensor in stored.state(artifact.context or 1)} - scales.keys():
            raise BundleError(f"the manifest of {place} has no scale of the state {min(missing)}. Export it again")
        stored = dataclasses.replace(stored, state_scales=StateScales(scales))
    on_progress(ORIGINAL, None)
    proof = make_proof(stored, artifact, within(on_progress, ORIGINAL))
    return verify_artifact(directory, artifact, proof, engine, on_progress)
