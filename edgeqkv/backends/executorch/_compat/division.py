"""What dividing a program among backends need not do: it takes time, most of it with the square of the layers.

All of it is without the promise of torch and ExecuTorch that it stays as it is. Tried with executorch 1.5.1 and torch
2.13:

``GraphModule.__str__``, ``lowered_backend_module.legalize_graph`` and ``GroupBasedPartitioner._can_merge_partitions``,
replaced while a program is lowered
    For: time that grows with the square of the layers. For every subgraph that a backend is given, the whole program is
    printed for a log that nobody keeps, and copied so that it is in order; whether two subgraphs may be one is asked
    of every pair, node by node. When one of them is gone: it is done as ever.
``XNNPACKPassManager``, replaced while a program is lowered
    For: time; each of its 17 ``passes`` traces its subgraph anew, also those for operators that the subgraph has not,
    and of every layer anew what a layer like it went through before. A known result is given another's weights by
    ``_graph_signature``, ``_state_dict`` and ``_constants`` of an exported program. When it is gone: all passes run on
    all, as ever.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from copy import copy
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import torch

from edgeqkv.backends.executorch._compat.replaced import replaced

if TYPE_CHECKING:
    from torch.export import ExportedProgram

__all__ = ["divided_quickly", "passes_saved"]

_CHANNELS_LAST: Final = ("convolution", "upsample", "mean", "pool", "amax", "max.dim", "prelu")
"""Parts of the names of operators whose tensors are copied into another memory format."""

_FOR_OPERATORS: Final = {
    "ConvertToLinearPass": ("mm",),
    "ConvertToSDPAPass": ("softmax",),
    "PropagateCustomMetaPass": ("quantize",),
    "RemoveRedundantCopyPass": ("to_copy", *_CHANNELS_LAST),
    "ConvertToUpsampleBilinear2d": ("_index", "upsample"),
    "FuseBatchNormPass": ("batch_norm",),
    "DecomposeBatchNorm": ("batch_norm",),
    "FuseActivationPass": ("relu", "hardtanh"),
    "DecomposeConcatenate": ("cat",),
    "RemoveGetItemPass": ("max_pool", "max.dim"),
    "InsertPadQDQPass": ("pad",),
    "Conv1dUnsqueezePass": ("convolution",),
    "PReLUReshapePass": ("prelu",),
    "DimOrderOpsRevertPass": ("dim_order",),
}
"""A pass of XNNPACK's → parts of the names of the operators that it is for; passes that are not here always run."""

_HANDLE: Final = "debug_handle"


@contextmanager
def passes_saved() -> Iterator[None]:
    """Inside, XNNPACK's passes are run on a subgraph where they have work, and once for all that are alike."""
    from executorch.backends.xnnpack import xnnpack_preprocess

    known: dict[tuple[Any, ...], _Passed] = {}

    def thinned(original: Callable[..., Any]) -> Callable[..., Any]:
        def manager(program: ExportedProgram, passes: Any = None) -> Any:
            made = original(program, passes)
            if hasattr(made, "passes"):
                present = {getattr(node.target, "__name__", "") for node in program.graph.nodes}
                made.passes = [each for each in made.passes if _has_work(each.__name__, present)]
            return _Once(program, made, known)

        return manager

    with replaced(xnnpack_preprocess, "XNNPACKPassManager", thinned):
        yield


@dataclass(frozen=True)
class _Passed:
    """What passes made of a subgraph, and by which numbers its nodes and the result's were known then."""

    program: ExportedProgram
    handles_before: list[Any]
    handles: list[Any]

    def of(self, other: ExportedProgram) -> ExportedProgram:
        """The same of another subgraph like it: its weights, in the order of the inputs, and its numbers."""
        result = copy(self.program)
        specs = zip(self.program.graph_signature.input_specs, other.graph_signature.input_specs, strict=True)
        result._graph_signature = replace(
            self.program.graph_signature, input_specs=[replace(spec, target=new.target) for spec, new in specs]
        )
        result._state_dict, result._constants = other.state_dict, other.constants
        now = dict(zip(self.handles_before, _handles(other), strict=True))
        for node, handle in zip(self.program.graph.nodes, self.handles, strict=True):
            if handle is not None:
                node.meta[_HANDLE] = now.get(handle, handle)
        return result


class _Once:
    """Passes over a subgraph, which are not run if one like it went through them before."""

    def __init__(self, program: ExportedProgram, passes: Any, known: dict[tuple[Any, ...], _Passed]) -> None:
        self._program, self._passes, self._known = program, passes, known

    def transform(self) -> Any:
        form = _form(self._program)
        if (known := self._known.get(form)) is not None:
            return known.of(self._program)
        handles = _handles(self._program)
        result = self._passes.transform()
        if _input_names(result) == _input_names(self._program):  # else they made constants of their own
            self._known[form] = _Passed(result, handles, _handles(result))
        return result


def _handles(program: ExportedProgram) -> list[Any]:
    return [node.meta.get(_HANDLE) for node in program.graph.nodes]


def _input_names(program: ExportedProgram) -> list[str]:
    nodes = program.graph.nodes
    names = [node.name for node in nodes if node.op == "placeholder"]
    return names + [node.name for node in nodes if node.op == "get_attr"]


def _form(program: ExportedProgram) -> tuple[Any, ...]:
    """All of a subgraph but the names and numbers of what goes in."""
    place = {node: index for index, node in enumerate(program.graph.nodes)}

    def of(value: Any) -> Any:
        if isinstance(value, torch.fx.Node):
            return "node", place[value]
        if isinstance(value, (tuple, list)):
            return tuple(map(of, value))
        if isinstance(value, dict):
            return tuple((key, of(item)) for key, item in value.items())
        if isinstance(value, torch.Tensor):
            return str(tuple(value.shape)), str(value.stride()), value.dtype
        return type(value).__name__, str(value)

    kinds = [(spec.kind, spec.target is None) for spec in program.graph_signature.input_specs]
    nodes = [
        (node.op, node.target if node.op == "call_function" else "", of((node.args, node.kwargs, node.meta.get("val"))))
        for node in program.graph.nodes
    ]
    return (*kinds, *nodes)


def _has_work(name: str, present: set[str]) -> bool:
    parts = _FOR_OPERATORS.get(name)
    return parts is None or any(part in operator for part in parts for operator in present)


@contextmanager
def divided_quickly() -> Iterator[None]:
    """Inside, a program is divided among backends without work that grows with the square of its length."""
    with _graphs_not_printed(), _sorted_in_place(), _merged_by_sets():
        yield


def _graphs_not_printed() -> AbstractContextManager[None]:
    return replaced(torch.fx.GraphModule, "__str__", lambda _: object.__repr__)


def _sorted_in_place() -> AbstractContextManager[None]:
    from executorch.exir import lowered_backend_module

    return replaced(lowered_backend_module, "legalize_graph", lambda _: _put_in_order)


def _put_in_order(module: torch.fx.GraphModule) -> torch.fx.GraphModule:
    """Move every node that comes before something that it reads to right behind that; all others stay."""
    placed: set[torch.fx.Node] = set()
    waiting: dict[torch.fx.Node, list[torch.fx.Node]] = {}

    def waits(node: torch.fx.Node) -> bool:
        missing = next((each for each in node.all_input_nodes if each not in placed), None)
        if missing is not None:
            waiting.setdefault(missing, []).append(node)
        return missing is not None

    for node in list(module.graph.nodes):
        if waits(node):
            continue
        last, ready = node, [node]
        while ready:
            placed.add(done := ready.pop(0))
            for each in waiting.pop(done, ()):
                if not waits(each):
                    last.append(each)
                    last = each
                    ready.append(each)
    return module


def _merged_by_sets() -> AbstractContextManager[None]:
    from executorch.exir.backend.canonical_partitioners import group_partitioner
    from torch.fx.passes.utils.fuser_utils import validate_partition

    def can_merge(partitioner: Any, one: int, other: int, partitions: Any) -> bool:
        """Whether nothing outside of the two depends on one and is what the other depends on."""
        nodes = {*partitions[one].nodes, *partitions[other].nodes}
        readers = {user for node in nodes for user in node.users} - nodes
        after = partitioner.dependency_viewer.downstreams_of
        return all(nodes.isdisjoint(after(user)) for user in readers) and validate_partition(list(nodes))

    return replaced(group_partitioner.GroupBasedPartitioner, "_can_merge_partitions", lambda _: can_merge)
