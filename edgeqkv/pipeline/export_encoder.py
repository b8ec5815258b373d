"""The export of an encoder, start to end: as `edgeqkv.pipeline.export`, but that there is no state, context or text."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from edgeqkv import quantize
from edgeqkv.backends import Backend, EncoderRequest, backend
from edgeqkv.bundle.bundle import Bundle, EncoderCard, QuantizationCard, Staged, proof_name, staged
from edgeqkv.bundle.manifest import EncoderArtifact
from edgeqkv.errors import InputError, UnsupportedError, VerificationFailed
from edgeqkv.extras import installed_version
from edgeqkv.model.model import EncoderModel, Image
from edgeqkv.model.weights import PRECISIONS
from edgeqkv.pipeline.export import check_variant, choice, model_card
from edgeqkv.pipeline.proof import Verification
from edgeqkv.pipeline.verify import make_encoder_proof, verify_encoder_artifact
from edgeqkv.progress import Report, silent

__all__ = ["export"]

_DEFAULT_WEIGHTS = "int8"


def export(
    model: EncoderModel,
    target: str | Sequence[str] = "onnx",
    *,
    out: str | Path,
    variant: str | None = None,
    weights: str | None = None,
    batch: int = 1,
    form: str | None = None,
    head: str | None = None,
    image_input: bool = False,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    verify: bool = True,
    overwrite: bool = False,
    report: Report = silent,
) -> Bundle:
    """Write an encoder for one or more targets as a bundle, and prove it.

    Args:
        model: what `edgeqkv.load` returned.
        target: ``onnx``, ``executorch``, ``coreml``, or several of them.
        out: the folder to write; it appears only if all went well.
        variant: a claim to be checked, in any accepted spelling.
        weights: precision of the stored weights; int8 if not given, or what the target has instead.
        batch: inputs that a call takes.
        form: which form of the graph; the target's default if not given.
        head: precision of the head, if it is to differ from ``weights``.
        image_input: take an image of the target's own type, and normalize it in the graph.
        mean: of each channel of an image whose pixels are 0 to 1, as it was subtracted in training; the task's own if
            the file says which task it was.
        std: what the difference was divided by.
        verify: compare every artifact with the model before it is called done.
        overwrite: replace a bundle at ``out``.
        report: told of the progress.

    Raises:
        VerificationFailed: an artifact does not compute what the model does; no bundle is written.
        EdgeQKVError: the input is wrong; the subclass says in which way.
    """
    names = list(dict.fromkeys([target] if isinstance(target, str) else target))
    if not names:
        raise UnsupportedError("no target was given")
    if batch < 1:
        raise InputError(f"a batch of {batch} is impossible; choose 1 or more")
    check_variant(model, variant)
    model = _normalized(model, mean, std)
    if image_input:
        _check_image(model)
    requests = {name: _request(backend(name), form, weights, batch, image_input) for name in names}
    with staged(Path(out), overwrite=overwrite) as staging:
        report("checking the weights", None)
        model.check_finite()
        stored = {
            precision: quantize.apply_to_encoder(model, precision, head, report)
            for precision in dict.fromkeys(request.weights for request in requests.values())
        }
        targets = {}
        for name, request in requests.items():
            kept = backend(name).stores(stored[request.weights])
            artifact = backend(name).export_encoder(kept, staging.path, request, report)
            targets[name] = EncoderCard(
                artifact=artifact,
                quantization=_quantization(request.weights, head),
                verification=_prove(kept, artifact, staging, report) if verify else None,
            )
        staging.write_manifest(installed_version("edgeqkv") or "", model_card(model, "encoder"), None, targets)
    return Bundle(out, check=False)


def _normalized(model: EncoderModel, mean: Sequence[float] | None, std: Sequence[float] | None) -> EncoderModel:
    """The model, told how its images were normalized."""
    if mean is None and std is None:
        return model
    input_ = model.config.input
    if not isinstance(input_, Image):
        raise InputError(f"{model.source.path.name} takes {input_.kind}; only images have a mean and a deviation")
    for name, values in (("mean", mean), ("std", std)):
        if values is None or len(values) != input_.channels:
            raise InputError(
                f"{name} is {values and list(values)}; it needs {input_.channels} numbers, one a channel, and mean and "
                f"std go together"
            )
    told = dataclasses.replace(input_, mean=tuple(mean or ()), std=tuple(std or ()))
    if not all(value > 0 for value in told.std or ()):
        raise InputError(f"std is {list(std or ())}; a deviation is above 0")
    return dataclasses.replace(model, config=dataclasses.replace(model.config, input=told))


def _check_image(model: EncoderModel) -> None:
    input_ = model.config.input
    if not isinstance(input_, Image):
        raise InputError(f"{model.source.path.name} takes {input_.kind}, not an image: leave out --image-input")
    if input_.mean is None:
        raise InputError(
            f"how the images of '{model.config.task}' were normalized is not known; give --mean and --std, one number "
            f"a channel, for pixels of 0 to 1"
        )


def _request(target: Backend, form: str | None, weights: str | None, batch: int, image: bool) -> EncoderRequest:
    default = _DEFAULT_WEIGHTS if _DEFAULT_WEIGHTS in target.weights else target.weights[0]
    if image and not target.takes_images:
        raise UnsupportedError(f"{target.title} has no type for images; --image-input is for coreml")
    return EncoderRequest(
        form=choice(target, "encoder form", form),
        weights=choice(target, "weights", weights or default),
        batch=batch,
        image=image,
    )


def _prove(model: EncoderModel, artifact: EncoderArtifact, staging: Staged, report: Report) -> Verification:
    """Compare an artifact with the model that it stores, and keep the proof beside it."""
    title = backend(artifact.target).title
    report(f"verifying {title}", None)
    proof = make_encoder_proof(model, artifact)
    result = verify_encoder_artifact(staging.path, artifact, proof)
    if not result.passed:
        raise VerificationFailed(
            f"{title} does not compute what {model.source.path.name} does: {result.failure}. No bundle was written"
        )
    proof.save(staging.path / proof_name(artifact.target))
    return result


def _quantization(weights: str, head: str | None) -> QuantizationCard | None:
    if weights in PRECISIONS and head in (None, weights):
        return None
    return QuantizationCard(weights=weights, head=head or weights, method="nearest", calibration=None)
