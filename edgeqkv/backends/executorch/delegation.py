"""Which operators XNNPACK took, which stayed on the plain CPU kernels, and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from executorch.exir.delegate import executorch_call_delegate, is_lowered_module
from torch.fx import GraphModule

from edgeqkv.backends.executorch._compat import BOOKKEEPING, MUTATION

__all__ = ["delegation_table"]


def delegation_table(method: str, graph: GraphModule) -> list[dict[str, Any]]:
    """A row an operator of a lowered method: ``method, operator, delegated, kept`` (how often) and ``why`` kept."""
    delegated: Counter[str] = Counter()
    for node in graph.graph.nodes:
        if node.op == "get_attr" and is_lowered_module(lowered := getattr(graph, node.target)):
            delegated.update(_operators(lowered.original_module))
    kept = Counter(_operators(graph))
    taken = set(XnnpackPartitioner().target_partitioner_configs)
    return [
        {
            "method": method,
            "operator": operator,
            "delegated": delegated[operator],
            "kept": kept[operator],
            "why": _reason(operator, taken) if kept[operator] else "",
        }
        for operator in sorted(delegated | kept)
    ]


def _operators(graph: GraphModule) -> Iterator[str]:
    for node in graph.graph.nodes:
        if node.op != "call_function" or node.target is executorch_call_delegate:
            continue
        if getattr(node.target, "__name__", "") == MUTATION:
            yield node.args[0].name().replace("::", ".")
        elif hasattr(node.target, "name") and callable(node.target.name):
            yield node.target.name().replace("::", ".")


def _reason(operator: str, taken: set[str]) -> str:
    namespace, name = operator.split(".")[:2]
    if namespace == "llama":
        return "reads or writes the state, which is not the delegate's"
    if name in BOOKKEEPING:
        return "computes with shapes and the position, not with data"
    if name in {target.partition(".")[0] for target in taken}:
        return "XNNPACK has it, but not for these types or shapes"
    return "XNNPACK does not have it"
