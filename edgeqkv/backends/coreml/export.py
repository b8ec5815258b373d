"""Writing a model as a Core ML package: functions that share one set of weights and one state, or an encoder's one."""

from __future__ import annotations

import gc
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from edgeqkv.backends.coreml import lints
from edgeqkv.backends.coreml.errors import mil_errors
from edgeqkv.backends.coreml.forms import FORMS, Form
from edgeqkv.backends.coreml.layouts import ConvLayout
from edgeqkv.backends.coreml.memory import most_tokens
from edgeqkv.backends.coreml.metadata import describe
from edgeqkv.backends.coreml.mil import Function, Program, Var, ct, mb, types
from edgeqkv.backends.coreml.names import PACKAGE
from edgeqkv.backends.coreml.ops import ALLOWED, CAUSAL, MilOps, StatefulOps
from edgeqkv.backends.coreml.runner_files import write_files
from edgeqkv.backends.coreml.saving import save
from edgeqkv.backends.coreml.states import Slot
from edgeqkv.backends.coreml.weights import WeightPool
from edgeqkv.backends.described import described
from edgeqkv.backends.ends import input_spec, output_spec
from edgeqkv.backends.features import check_features
from edgeqkv.backends.target import TargetSpec
from edgeqkv.bundle.manifest import Artifact, Graph, Normalization, StateTensor, TensorSpec
from edgeqkv.errors import InputError, UnsupportedError
from edgeqkv.mil import Package
from edgeqkv.model.model import Image, Model
from edgeqkv.model.state import StateSpec
from edgeqkv.progress import Progress

__all__ = ["export"]

# What a function is given, by what its caller gives. Core ML hands over an image's pixels in fp32.
_TYPES: Final = {"int32": types.int32, "fp16": types.fp16, "uint8": types.fp32}

_COLORS: Final = {1: ct.colorlayout.GRAYSCALE, 3: ct.colorlayout.RGB}

_PACKAGES: Final = ("coremltools", "torch")

_Placeholders = dict[str, tuple[int, ...]]


def export(model: Model, directory: Path, spec: TargetSpec, on_progress: Progress) -> Artifact:
    """Write the package of the asked form; see `CoreMLTarget` for the forms.

    Raises:
        UnsupportedError: the form cannot hold the model, or no image can be its input.
        InputError: how its images were normalized is not known.
        BundleError: coremltools saved something else than what was built.
    """
    check_features(model.network, "Core ML", CAUSAL if model.causal else ALLOWED)
    form = FORMS[spec.form]
    artifact, placeholders = _decoder(model, spec, form) if model.causal else (_encoder(model, spec, form), {})
    for warning in artifact.details["warnings"]:
        on_progress(f"warning: {warning}", None)
    program = _program(model, form, artifact, placeholders, on_progress)
    on_progress(f"writing {PACKAGE}", None)
    save(program, directory / PACKAGE, lambda saved: describe(saved, model, artifact))
    del program
    gc.collect()  # it refers to itself, and holds a copy of the weights
    with mil_errors():
        package = Package(directory / PACKAGE)
    lints.check_saved_states(package, artifact.state_tensors)
    lints.check_saved_names(package)
    if spec.form.startswith("swift-transformers"):
        write_files(directory, model, spec)
    return artifact


def _decoder(model: Model, spec: TargetSpec, form: Form) -> tuple[Artifact, _Placeholders]:
    """The description of a decoder's package, and the states that must be there though nothing is kept in them."""
    if form.layout is ConvLayout:
        lints.check_dimensions(model)
    groups = _groups(model, spec, form)
    states = tuple(
        StateTensor(
            name=name,
            role=first.role,
            layer=None,
            dtype="fp16",
            shape=(len(layers), first.kv_heads, first.length, first.dim),
            ring=first.length < int(spec.context or 0),
            update="runtime",
        )
        for name, (first, layers) in groups.items()
    )
    held = {tensor.name for tensor in states}
    placeholders = {name: shape for name, shape in form.interface.placeholders.items() if name not in held}
    vocab_size = model.config.vocab_size
    artifact = described(
        "coreml",
        spec,
        form.interface.graphs(spec, vocab_size),
        vocab_size=vocab_size,
        packages=_PACKAGES,
        state=states,
        axes=("layers", "kv_heads", "context", "head_dim"),
        details={
            "warnings": lints.state_warnings(states),
            "placeholder_states": placeholders,
            "state_layers": {name: layers for name, (_, layers) in groups.items()},
        },
    )
    return artifact, placeholders


def _encoder(model: Model, spec: TargetSpec, form: Form) -> Artifact:
    config = model.config
    input_, normalization = input_spec(config, spec.batch, "int32", "fp16"), None
    if spec.image:
        input_, normalization = _image(model, spec)
    warnings = []
    if form.layout is ConvLayout:
        lints.check_encoder_dimensions(model)
        warnings = lints.token_warnings(config.tokens)
    graph = Graph(name="main", file=PACKAGE, inputs=(input_,), outputs=(output_spec(config, spec.batch, "fp16"),))
    return described(
        "coreml",
        spec,
        (graph,),
        vocab_size=config.vocab_size,
        packages=_PACKAGES,
        normalization=normalization,
        details={"warnings": warnings},
    )


def _image(model: Model, spec: TargetSpec) -> tuple[TensorSpec, Normalization]:
    """The input as an image, and what the graph does to its pixels."""
    image = model.config.input
    if not isinstance(image, Image) or image.mean is None or image.std is None:
        raise InputError(f"how images of {model.source.path.name} were normalized is not known, or it takes none")
    if spec.batch > 1:
        raise UnsupportedError(
            f"Core ML takes one image a call, not {spec.batch}: leave out --batch, or leave out --image-input and "
            f"give normalized pixels"
        )
    if image.channels not in _COLORS:
        raise UnsupportedError(
            f"an image has {' or '.join(map(str, _COLORS))} channels, and {model.source.path.name} takes "
            f"{image.channels}: leave out --image-input and give normalized pixels"
        )
    return TensorSpec(name="image", dtype="uint8", shape=(1, *image.shape), role="image"), Normalization(
        mean=image.mean, std=image.std
    )


def _groups(model: Model, spec: TargetSpec, form: Form) -> dict[str, tuple[StateSpec, list[int]]]:
    """The states by name: what one holds of the first of its layers, and which layers they are, all alike.

    Raises:
        UnsupportedError: the form's runner knows two states, and the layers need more.
    """
    names, groups = form.interface.states, dict[tuple[Any, ...], tuple[StateSpec, list[int]]]()
    for each in model.state(int(spec.context or 0), most_tokens(spec)):
        key = (each.role, each.kv_heads, each.length, each.dim)
        groups.setdefault(key, (each, []))[1].append(each.layer)
    named: dict[str, tuple[StateSpec, list[int]]] = {}
    for first, layers in groups.values():
        name, count = names[first.role], 1
        while name in named:
            name = f"{names[first.role]}_{(count := count + 1)}"
        named[name] = first, layers
    if len(named) > len(set(map(names.get, {key[0] for key in groups}))) and not form.interface.several:
        raise UnsupportedError(
            f"this model's layers differ in heads or in what they share, and the runner of {spec.form} knows no more "
            f"than two states, of all layers. Export it with --form linear"
        )
    return named


def _program(model: Model, form: Form, artifact: Artifact, placeholders: _Placeholders, on_progress: Progress) -> Any:
    program, weights = Program(), WeightPool()
    for index, graph in enumerate(artifact.graphs):
        on_progress(f"building {graph.name}", index / len(artifact.graphs))
        weights.begin_function()
        if artifact.causal:
            function = _decoder_function(model, form, graph, artifact, placeholders, weights)
        else:
            function = _encoder_function(model, form, graph, artifact, weights)
        program.add_function(graph.name, function)
    if "main" not in program.functions:  # a lone "main" makes an ordinary package, which any runner takes
        program.default_function_name = artifact.graphs[0].name
        program.export_as_multifunction = True
    return program


def _decoder_function(
    model: Model, form: Form, graph: Graph, artifact: Artifact, placeholders: _Placeholders, weights: WeightPool
) -> Any:
    context = int(artifact.context or 0)
    ranges = {name: ct.RangeDim(*bounds) for name, bounds in form.interface.ranges(context).items()}
    inputs = {spec.name: mb.placeholder(_symbolic(spec, ranges), _TYPES[spec.dtype]) for spec in graph.inputs}
    held = {tensor.name: tensor.shape for tensor in artifact.state_tensors} | placeholders
    inputs |= {name: mb.state_tensor_placeholder(shape, types.fp16) for name, shape in held.items()}
    with Function(inputs, opset_version=ct.target.iOS18) as function:
        tokens, position_input = (function.inputs[spec.name] for spec in graph.inputs)
        slots = {
            (layer, tensor.role): Slot(function.inputs[tensor.name], index, tensor.shape[2] < context)
            for tensor in artifact.state_tensors
            for index, layer in enumerate(artifact.details["state_layers"][tensor.name])
        }
        signature = form.interface.signature(tokens, position_input, graph.tokens, context)
        ops = StatefulOps(weights, form.layout(weights), form.update(), signature, context, slots)
        logits = model.network.outputs(ops, tokens)
        for name in placeholders:
            _touch(function.inputs[name])
        function.set_outputs([_named(logits, graph.logits)])
    if ranges:
        sizes = ([ranges.get(str(size), size) for size in spec.shape] for spec in graph.inputs)
        function.set_input_types(
            tuple(ct.TensorType(spec.name, shape) for spec, shape in zip(graph.inputs, sizes, strict=True))
        )
    return function


def _encoder_function(model: Model, form: Form, graph: Graph, artifact: Artifact, weights: WeightPool) -> Any:
    spec = artifact.whole_input
    inputs = {spec.name: mb.placeholder(spec.shape, _TYPES[spec.dtype])}
    with Function(inputs, opset_version=ct.target.iOS18) as function:
        layout = form.layout(weights)
        given = function.inputs[spec.name]
        if artifact.normalization is not None:
            given = _normalized(given, artifact.normalization)
        elif spec.role == "features":  # ids and pixels are taken apart by what reads them
            given = layout.from_rows(given)
        logits = model.network.outputs(MilOps(weights, layout), given)
        function.set_outputs([_shaped(layout.to_rows(logits), graph.logits)])
    if artifact.normalization is not None:
        colors = _COLORS[int(spec.shape[1])]
        function.set_input_types((ct.ImageType(spec.name, shape=spec.shape, color_layout=colors, channel_first=True),))
    return function


def _symbolic(spec: TensorSpec, ranges: Mapping[str, Any]) -> list[Any]:
    return [ranges[size].symbol if isinstance(size, str) else size for size in spec.shape]


def _touch(state: Var) -> None:
    """Read a state that is not needed and write it back: one that no operation names would be lost."""
    mb.coreml_update_state(state=state, value=mb.read_state(input=state))


def _shaped(rows: Var, output: TensorSpec) -> Var:
    """An encoder's logits as the output that is declared."""
    shaped = rows if tuple(rows.shape) == output.shape else mb.reshape(x=rows, shape=list(output.shape))
    shaped.name = output.name
    return shaped


def _normalized(image: Var, normalization: Normalization) -> Var:
    """Pixels 0 to 255 in fp32 as the model was trained on them, in fp16.

    In fp32 because a factor and a term rounded to fp16 would move a bright pixel by up to two of its 256 levels.
    """
    mean, std = (np.array(values).reshape(1, -1, 1, 1) for values in (normalization.mean, normalization.std))
    scaled = mb.mul(x=image, y=(1 / (255 * std)).astype(np.float32))
    return mb.cast(x=mb.add(x=scaled, y=(-mean / std).astype(np.float32)), dtype="fp16")


def _named(logits: Var, spec: TensorSpec) -> Var:
    """``[S, vocabulary]`` as the output that is declared."""
    leading = range(len(spec.shape) - len(logits.shape))
    output = mb.expand_dims(x=logits, axes=list(leading)) if leading else logits
    output.name = spec.name
    return output
