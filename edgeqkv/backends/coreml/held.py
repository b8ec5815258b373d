"""What a package says of its functions, compared with what a manifest says of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from edgeqkv.backends.held import HeldGraph, HeldTensor, check_held, exactly
from edgeqkv.bundle.manifest import Artifact
from edgeqkv.errors import BundleError
from edgeqkv.mil import Package
from edgeqkv.mil.package import FeatureSpec, Function

__all__ = ["checked_package"]


def checked_package(directory: Path, artifact: Artifact) -> Package:
    """The package that an artifact lies in, whose functions are those of which its manifest tells.

    Raises:
        BundleError: they are not.
        MilError: the package is missing or damaged.
    """
    path = directory / artifact.graphs[0].file
    package = Package(path)
    for graph in artifact.graphs:
        if graph.name not in package.functions or graph.file != artifact.graphs[0].file:
            raise BundleError(f"{path} has no function {graph.name!r}, of which the manifest tells. Export it again")
        tokens = graph.input("tokens")
        held = _held(package.functions[graph.name], tokens.name if tokens else None)
        check_held(path, graph, artifact, held, "runtime")
    return package


def _held(function: Function, tokens: str | None) -> HeldGraph:
    return HeldGraph(
        _tensors(function.inputs),
        _outputs(function),
        _tensors(function.states),
        rows=_rows(function, tokens) if tokens else None,
    )


def _tensors(specs: Mapping[str, FeatureSpec]) -> dict[str, HeldTensor]:
    return {name: _tensor(spec) for name, spec in specs.items()}


def _outputs(function: Function) -> dict[str, HeldTensor]:
    """Of an output whose size varies, only the program itself says the shape."""
    types = {name: each for op in function.operations for name, each in op.outputs.items()}
    found = _tensors(function.outputs)
    for name, spec in function.outputs.items():
        if not spec.shape and name in types:
            sizes = tuple((1, None) if size is None else (size, size) for size in types[name].shape)
            found[name] = HeldTensor(spec.dtype, sizes)
    return found


def _tensor(spec: FeatureSpec) -> HeldTensor:
    """Whoever gives an image gives its pixels."""
    dtype = "uint8" if spec.image else spec.dtype
    return HeldTensor(dtype, spec.ranges) if spec.ranges else exactly(dtype, spec.shape)


def _rows(function: Function, tokens: str) -> int | None:
    """Rows of the table, which may lie in parts, whose rows token ids choose by all that follows from them."""
    sizes = {name: each.shape for op in function.operations for name, each in op.outputs.items()}
    ids, rows = {tokens}, 0
    for op in function.operations:
        given = {parameter: {operand.name for operand in operands} for parameter, operands in op.inputs.items()}
        if op.type == "gather" and given["indices"] & ids:
            (table,) = given["x"]
            rows += (sizes[table][0] or 0) if table in sizes else 0
        elif op.type != "shape" and any(names & ids for names in given.values()):
            ids.update(op.outputs)
    return rows or None
