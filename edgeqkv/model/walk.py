"""Walking over a network: a tree of dataclasses and tuples whose leaves are weights.

Whoever needs all weights, linear layers or normalizations of a model finds them here, whatever the architecture calls
them and wherever they are.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar, cast

from edgeqkv.model.layers import Linear, Norm

if TYPE_CHECKING:
    from edgeqkv.model.weights import Weight

__all__ = ["form", "linears", "map_nodes", "map_weights", "norms", "weights"]

N = TypeVar("N")
T = TypeVar("T")


def weights(network: object) -> tuple[Weight, ...]:
    """Every distinct weight once, in the order of the computation."""
    from edgeqkv.model.weights import Weight  # needs torch, which a network of shapes alone does not

    return _found(network, Weight)


def linears(network: object) -> tuple[Linear, ...]:
    """Every distinct linear layer once."""
    return _found(network, Linear)


def norms(network: object) -> tuple[Norm, ...]:
    """Every distinct normalization once."""
    return _found(network, Norm)


def form(network: object) -> tuple[object, ...]:
    """All of a network but its weights' names and numbers: the same of two layers that differ in nothing else."""
    return tuple(_form(network, {}))


def map_weights(network: T, change: Callable[[Weight], Weight]) -> T:
    """The network with every distinct weight changed once; what was one object stays one object."""
    from edgeqkv.model.weights import Weight

    return map_nodes(network, Weight, change)


def map_nodes(network: T, kind: type[N], change: Callable[[N], N]) -> T:
    """The same with every distinct node of a kind."""
    return _mapped(network, kind, change, {})


def _found(network: object, kind: type[T]) -> tuple[T, ...]:
    return tuple(dict.fromkeys(node for node in _nodes(network, kind) if isinstance(node, kind)))


def _nodes(node: object, kind: type) -> Iterator[object]:
    yield node
    if isinstance(node, tuple):
        for item in node:
            yield from _nodes(item, kind)
    elif dataclasses.is_dataclass(node) and not isinstance(node, kind):
        for field in dataclasses.fields(node):
            yield from _nodes(getattr(node, field.name), kind)


def _form(node: object, seen: dict[int, int]) -> Iterator[object]:
    import torch

    from edgeqkv.model.weights import Weight

    if isinstance(node, torch.Tensor):
        yield tuple(node.shape), node.dtype
    elif isinstance(node, tuple):
        yield len(node)
        for item in node:
            yield from _form(item, seen)
    elif dataclasses.is_dataclass(node) and not isinstance(node, type):
        yield type(node)
        if isinstance(node, Weight):
            known = id(node) in seen
            yield seen.setdefault(id(node), len(seen))  # one weight in two places is not two weights
            if known:
                return
        for field in dataclasses.fields(node):
            if not (isinstance(node, Weight) and field.name == "name"):
                yield from _form(getattr(node, field.name), seen)
    else:
        yield node


def _mapped(node: T, kind: type[N], change: Callable[[N], N], done: dict[int, Any]) -> T:
    if id(node) in done:
        return cast("T", done[id(node)])
    result: Any = node
    if isinstance(node, kind):
        result = change(node)
    elif type(node) is tuple:
        result = tuple(_mapped(item, kind, change, done) for item in cast("tuple[Any, ...]", node))
    elif dataclasses.is_dataclass(node) and not isinstance(node, type):
        parts = {
            field.name: _mapped(getattr(node, field.name), kind, change, done) for field in dataclasses.fields(node)
        }
        # A part that nothing changed in stays the object that it is.
        if any(parts[name] is not getattr(node, name) for name in parts):
            result = dataclasses.replace(node, **parts)
    done[id(node)] = result
    return cast("T", result)
