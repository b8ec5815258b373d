"""Writing an encoder as a Core ML package: one function of static shapes, without a state."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from edgeqkv.backends import EncoderRequest
from edgeqkv.backends.coreml import lints
from edgeqkv.backends.coreml.encoder_ops import MilEncoderOps
from edgeqkv.backends.coreml.forms import FORMS, PACKAGE
from edgeqkv.backends.coreml.layouts import ConvLayout
from edgeqkv.backends.coreml.metadata import describe_encoder
from edgeqkv.backends.coreml.mil import Function, Program, ct, mb, types
from edgeqkv.backends.coreml.saving import save
from edgeqkv.backends.coreml.weights import WeightPool
from edgeqkv.backends.encoders import input_spec, output_spec
from edgeqkv.bundle.manifest import EncoderArtifact, Normalization, TensorSpec
from edgeqkv.errors import InputError, UnsupportedError
from edgeqkv.extras import installed_version
from edgeqkv.mil.package import Package
from edgeqkv.model.model import EncoderModel, Image, Tokens
from edgeqkv.progress import Report

__all__ = ["export_encoder"]

_FUNCTION: Final = "main"

# What a function is given, by what its caller gives. Core ML hands over an image's pixels in fp32.
_TYPES: Final = {"int32": types.int32, "fp16": types.fp16, "uint8": types.fp32}

_COLORS: Final = {1: ct.colorlayout.GRAYSCALE, 3: ct.colorlayout.RGB}


def export_encoder(model: EncoderModel, directory: Path, request: EncoderRequest, report: Report) -> EncoderArtifact:
    """Write the package of the asked form; see `CoreMLBackend` for the forms.

    Raises:
        UnsupportedError: the form cannot hold the model, or no image can be its input.
        InputError: how its images were normalized is not known.
        BundleError: coremltools saved something else than what was built.
    """
    config = model.config
    input_, normalization = input_spec(config, request.batch, "int32", "fp16"), None
    if request.image:
        input_, normalization = _image(model, request)
    warnings: list[str] = []
    if FORMS[request.form].layout is ConvLayout:
        lints.check_encoder_dimensions(model)
        warnings = lints.token_warnings(config.tokens)
    for warning in warnings:
        report(f"warning: {warning}", None)
    artifact = EncoderArtifact(
        target="coreml",
        form=request.form,
        weights=request.weights,
        batch=request.batch,
        file=PACKAGE,
        function=_FUNCTION,
        input=input_,
        output=output_spec(config, request.batch, "fp16"),
        values=config.input.vocab_size if isinstance(config.input, Tokens) else None,
        normalization=normalization,
        versions={name: installed_version(name) or "" for name in ("coremltools", "torch")},
        details={"warnings": warnings},
    )
    report(f"writing {PACKAGE}", None)
    save(_program(model, artifact), directory / PACKAGE, lambda spec: describe_encoder(spec, model, artifact))
    lints.check_saved_names(Package(directory / PACKAGE))
    return artifact


def _image(model: EncoderModel, request: EncoderRequest) -> tuple[TensorSpec, Normalization]:
    """The input as an image, and what the graph does to its pixels."""
    image = model.config.input
    if not isinstance(image, Image) or image.mean is None or image.std is None:
        raise InputError(f"how images of {model.source.path.name} were normalized is not known, or it takes none")
    if request.batch > 1:
        raise UnsupportedError(
            f"Core ML takes one image a call, not {request.batch}: leave out --batch, or leave out --image-input and "
            f"give normalized pixels"
        )
    if image.channels not in _COLORS:
        raise UnsupportedError(
            f"an image has {' or '.join(map(str, _COLORS))} channels, and {model.source.path.name} takes "
            f"{image.channels}: leave out --image-input and give normalized pixels"
        )
    return TensorSpec(name="image", dtype="uint8", shape=(1, *image.shape)), Normalization(
        mean=image.mean, std=image.std
    )


def _program(model: EncoderModel, artifact: EncoderArtifact) -> Any:
    spec, weights = artifact.input, WeightPool()
    inputs = {spec.name: mb.placeholder(spec.shape, _TYPES[spec.dtype])}
    with Function(inputs, opset_version=ct.target.iOS18) as function:
        layout = FORMS[artifact.form].layout(weights)
        ops = MilEncoderOps(weights, layout, function.inputs[spec.name], spec, artifact.normalization)
        function.set_outputs([ops.finish(model.network.outputs(ops, ops.inputs), artifact.output)])
    if artifact.normalization is not None:
        colors = _COLORS[int(spec.shape[1])]
        function.set_input_types((ct.ImageType(spec.name, shape=spec.shape, color_layout=colors, channel_first=True),))
    program = Program()
    program.add_function(_FUNCTION, function)
    return program
