"""Writing a model as a Core ML package: functions that share one set of weights and one state."""

from __future__ import annotations

import gc
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from edgeqkv.backends import Request
from edgeqkv.backends.coreml import lints
from edgeqkv.backends.coreml.forms import FORMS, PACKAGE, Form
from edgeqkv.backends.coreml.layouts import ConvLayout
from edgeqkv.backends.coreml.metadata import describe
from edgeqkv.backends.coreml.mil import Function, Program, Var, ct, mb, types
from edgeqkv.backends.coreml.ops import MilOps
from edgeqkv.backends.coreml.saving import save
from edgeqkv.backends.coreml.weights import WeightPool
from edgeqkv.bundle.manifest import Artifact, Graph, StateTensor, TensorSpec
from edgeqkv.extras import installed_version
from edgeqkv.mil.package import Package
from edgeqkv.model.architectures.decoder import decode
from edgeqkv.model.model import Model
from edgeqkv.progress import Report

__all__ = ["export"]

_TYPES: Final = {"int32": types.int32, "fp16": types.fp16}


def export(model: Model, directory: Path, request: Request, report: Report) -> Artifact:
    """Write the package of the asked form; see `CoreMLBackend` for the forms.

    Raises:
        UnsupportedError: the form cannot hold the model.
        BundleError: coremltools saved something else than what was built.
    """
    form = FORMS[request.form]
    if form.layout is ConvLayout:
        lints.check_dimensions(model)
    states = _state_tensors(model, form.interface.states)
    warnings = lints.state_warnings(states)
    for warning in warnings:
        report(f"warning: {warning}", None)
    held = {tensor.name for tensor in states}
    placeholders = {name: shape for name, shape in form.interface.placeholders.items() if name not in held}
    artifact = Artifact(
        target="coreml",
        form=request.form,
        weights=request.weights,
        state=request.state,
        context=request.context,
        chunk=request.chunk,
        vocab_size=model.config.vocab_size,
        axes=("layers", "kv_heads", "context", "head_dim"),
        graphs=form.interface.graphs(request, model.config.vocab_size),
        state_tensors=states,
        versions={name: installed_version(name) or "" for name in ("coremltools", "torch")},
        details={"placeholder_states": placeholders, "warnings": warnings},
    )
    program = _program(model, form, artifact, placeholders, report)
    report(f"writing {PACKAGE}", None)
    save(program, directory / PACKAGE, lambda spec: describe(spec, model, artifact))
    del program
    gc.collect()  # it refers to itself, and holds a copy of the weights
    saved = Package(directory / PACKAGE)
    lints.check_saved_states(saved, states)
    lints.check_saved_names(saved)
    return artifact


def _state_tensors(model: Model, names: Mapping[str, str]) -> tuple[StateTensor, ...]:
    """One tensor of all layers where keys and values are the same, else two."""
    config = model.config
    merged = all(block.attention.k is block.attention.v for block in model.network.blocks)
    shape = (config.layers, config.kv_heads, config.positions, config.head_dim)
    return tuple(
        StateTensor(name=names[role], role=role, layer=None, dtype="fp16", shape=shape)
        for role in (("kv",) if merged else ("k", "v"))
    )


def _program(
    model: Model,
    form: Form,
    artifact: Artifact,
    placeholders: dict[str, tuple[int, ...]],
    report: Report,
) -> Any:
    program, weights = Program(), WeightPool()
    for index, graph in enumerate(artifact.graphs):
        report(f"building {graph.name}", index / len(artifact.graphs))
        weights.begin_function()
        program.add_function(graph.name, _function(model, form, graph, artifact, placeholders, weights))
    program.default_function_name = artifact.graphs[0].name
    # A lone "main" makes an ordinary package, which any runner takes.
    program.export_as_multifunction = "main" not in program.functions
    return program


def _function(
    model: Model,
    form: Form,
    graph: Graph,
    artifact: Artifact,
    placeholders: dict[str, tuple[int, ...]],
    weights: WeightPool,
) -> Any:
    ranges = {name: ct.RangeDim(*bounds) for name, bounds in form.interface.ranges(artifact.context).items()}
    inputs = {spec.name: mb.placeholder(_symbolic(spec, ranges), _TYPES[spec.dtype]) for spec in graph.inputs}
    held = {tensor.name: tensor.shape for tensor in artifact.state_tensors} | placeholders
    inputs |= {name: mb.state_tensor_placeholder(shape, types.fp16) for name, shape in held.items()}
    with Function(inputs, opset_version=ct.target.iOS18) as function:
        tokens, told = (function.inputs[spec.name] for spec in graph.inputs)
        states = {tensor.role: function.inputs[tensor.name] for tensor in artifact.state_tensors}
        call = form.interface.call(tokens, told, graph.tokens, artifact.context)
        logits = decode(MilOps(weights, form.layout(weights), form.update(), call, states), model.network, tokens)
        for name in placeholders:
            _touch(function.inputs[name])
        (spec,) = graph.outputs
        function.set_outputs([_named(logits, spec)])
    if ranges:
        sizes = ([ranges.get(str(size), size) for size in spec.shape] for spec in graph.inputs)
        function.set_input_types(
            tuple(ct.TensorType(spec.name, shape) for spec, shape in zip(graph.inputs, sizes, strict=True))
        )
    return function


def _symbolic(spec: TensorSpec, ranges: Mapping[str, Any]) -> list[Any]:
    return [ranges[size].symbol if isinstance(size, str) else size for size in spec.shape]


def _touch(state: Var) -> None:
    """Read a state that is not needed and write it back: one that no operation names would be lost."""
    mb.coreml_update_state(state=state, value=mb.read_state(input=state))


def _named(logits: Var, spec: TensorSpec) -> Var:
    """``[S, vocabulary]`` as the output that is declared."""
    leading = range(len(spec.shape) - len(logits.shape))
    output = mb.expand_dims(x=logits, axes=list(leading)) if leading else logits
    output.name = spec.name
    return output
