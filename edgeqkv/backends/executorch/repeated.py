"""Layers that repeat are traced twice, and the rest of them are copies.

All that happens to a program before it is divided among backends (tracing, decomposition, a dozen passes) takes the
more time the more layers there are, 3 seconds each, and comes to the same for layers that differ in their numbers
alone. So the module that is traced has but a few of them, and all weights. In the program that comes out, the last two
of its periods are held against each other: where one is the other, operator by operator, with other weights, another
state and another input, it is copied for every period that was left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import torch
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind, OutputSpec, TensorArgument
from torch.fx import Node, map_arg

from edgeqkv.backends.executorch.arguments import same_arguments
from edgeqkv.backends.executorch.module import DecoderModule, state_name, state_of
from edgeqkv.model import walk
from edgeqkv.model.layers import Block

__all__ = ["NotRepeatedError", "Repetition", "repeat", "repetition"]

_SEEN: Final = 2  # periods that are traced
_HANDLE: Final = "debug_handle"  # by which a profile finds a node: they are numbered as they are traced


class NotRepeatedError(Exception):
    """The periods of a program differ in more than their weights, state and input."""


@dataclass(frozen=True)
class Repetition:
    """Layers that come again: after the ``first`` ones ``count`` periods of ``period`` layers."""

    first: int
    period: int
    count: int

    @property
    def traced(self) -> int:
        """How many layers have to be traced."""
        return self.first + _SEEN * self.period

    def layers(self, period: int) -> range:
        """The layers of one period."""
        start = self.first + period * self.period
        return range(start, start + self.period)


def repetition(blocks: Sequence[Block]) -> Repetition | None:
    """How the layers repeat, in the way that leaves the fewest to be traced; None: not often enough to gain anything.

    What layers of a kind share (turns, masks) is computed in the first of them, so that the first layers have to be of
    every kind that repeats.
    """
    kinds = [walk.form(each) for each in blocks]
    found = []
    for period in range(1, len(blocks) // (_SEEN + 1) + 1):
        for first in range(1, len(blocks) - (_SEEN + 1) * period + 1):
            if (len(blocks) - first) % period or not set(kinds[first:]) <= set(kinds[:first]):
                continue
            if kinds[first:-period] == kinds[first + period :]:
                found.append(Repetition(first, period, (len(blocks) - first) // period))
    return min(found, key=lambda each: each.traced, default=None)


def repeat(program: ExportedProgram, module: DecoderModule, found: Repetition) -> None:
    """Put the layers in that were not traced.

    Args:
        program: what became of those that were; all weights and all of the state are its inputs.
        module: what was traced.
        found: how its layers repeat.

    Raises:
        NotRepeatedError: they do not; the program is as it was.
    """
    inputs = _Inputs(program, module, found)
    earlier, template, fed, after = _last_period(program, inputs)
    output = program.graph.output_node()
    steps = {_handle(node) - _handle(of) for node, of in zip(template, earlier, strict=True)}
    step = steps.pop() if len(steps) == 1 else 0
    made = [{node: node for node in template}]  # what of each period stands for the template's nodes
    for period in range(_SEEN, found.count):
        copies: dict[Node, Node] = {}
        moved = partial(_moved, copies=copies, fed=fed, before=made[-1], of_period=partial(inputs.of, period=period))
        with program.graph.inserting_before(after[0] if after else output):
            for node in template:
                copies[node] = program.graph.node_copy(node, moved)
                copies[node].meta[_HANDLE] = _handle(node) + step * (period - _SEEN + 1)
        made.append(copies)
    for node in after:
        node.meta[_HANDLE] = _handle(node) + step * (found.count - _SEEN)
        node.args, node.kwargs = map_arg((node.args, node.kwargs), lambda each: made[-1].get(each, each))
    _let_out(program, template, made, inputs)
    program.graph_module.recompile()


def _handle(node: Node) -> int:
    return int(node.meta.get(_HANDLE) or 0)


def _moved(
    node: Node,
    copies: Mapping[Node, Node],
    fed: Mapping[Node, Node],
    before: Mapping[Node, Node],
    of_period: Callable[[Node], Node],
) -> Node:
    """What takes the place of a node that the template reads."""
    if node in copies:
        return copies[node]
    return before[fed[node]] if node in fed else of_period(node)


class _Inputs:
    """A program's inputs, and which of them take another's place in another period."""

    def __init__(self, program: ExportedProgram, module: DecoderModule, found: Repetition) -> None:
        signature = program.graph_signature
        nodes = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
        self.found = found
        self._module = module
        self._specs = {nodes[spec.arg.name]: spec for spec in signature.input_specs if spec.arg.name in nodes}
        self._by_target: dict[str, Node] = {
            spec.target: node for node, spec in self._specs.items() if spec.target is not None
        }
        if not self._by_target.keys() >= module.parts.keys():
            raise NotRepeatedError
        self._constants = program.constants
        self._weights = [
            walk.weights(tuple(module.blocks[layer] for layer in found.layers(period))) for period in range(found.count)
        ]

    def own(self, period: int) -> set[Node]:
        """Those that belong to a traced period alone."""
        return {node for node in self._specs if self.of(node, 1 - period, seen_in=period) is not node}

    def of(self, node: Node, period: int, seen_in: int = _SEEN - 1) -> Node:
        """What is for a period what this one is for the period that it is ``seen_in``."""
        spec = self._specs.get(node)
        if spec is None or spec.target is None:
            return node
        if spec.kind == InputKind.BUFFER and (place := state_of(spec.target)) is not None:
            layer, role = place
            if layer in self.found.layers(seen_in):
                return self._by_target[state_name(layer + (period - seen_in) * self.found.period, role)]
        if spec.kind == InputKind.PARAMETER:
            weight, part = self._module.parts[spec.target]
            if weight in self._weights[seen_in]:
                other = self._weights[period][self._weights[seen_in].index(weight)]
                return self._by_target[self._module.name_of(other, part)]
        return node

    def let_out(self, spec: OutputSpec, node: Node, period: int) -> OutputSpec:
        """How a period's state comes out, by how the last traced one's does."""
        layer, role = state_of(str(spec.target)) or (0, "")
        target = state_name(layer + (period - _SEEN + 1) * self.found.period, role)
        return OutputSpec(spec.kind, TensorArgument(name=node.name), target)

    def same_constant(self, node: Node, other: Node) -> bool:
        """Whether both are the same number, which the program has twice."""
        targets = [self._specs[each].target for each in (node, other) if each in self._specs]
        values = [self._constants.get(target) for target in targets if target is not None]
        first, *rest = values if len(values) == 2 else (None,)
        return isinstance(first, torch.Tensor) and all(
            isinstance(value, torch.Tensor) and value.dtype == first.dtype and torch.equal(value, first)
            for value in rest
        )


def _last_period(
    program: ExportedProgram, inputs: _Inputs
) -> tuple[list[Node], list[Node], dict[Node, Node], list[Node]]:
    """The operators of both periods; what the last is fed of the other → its own such; the operators after it.

    A period begins where the operators do of which the weights' first is one, or before: where is found by trying.
    """
    calls = [node for node in program.graph.nodes if node.op == "call_function"]
    starts = [_first_user(calls, inputs.own(period)) for period in range(_SEEN)]
    length = starts[1] - starts[0]
    for earlier in range(min(length, starts[0] + 1)):
        start = starts[1] - earlier
        before, last, after = calls[start - length : start], calls[start : start + length], calls[start + length :]
        if len(last) < length:
            continue
        fed = _fed(before, last, inputs)
        if fed is not None and _leads_on(before, {*before, *last, program.graph.output_node()}):
            return before, last, fed, after
    raise NotRepeatedError


def _first_user(calls: Sequence[Node], own: set[Node]) -> int:
    return next((place for place, node in enumerate(calls) if own & set(node.all_input_nodes)), 0)


def _leads_on(nodes: Sequence[Node], into: set[Node]) -> bool:
    """Whether nothing else reads what these make."""
    return all(into >= set(node.users) for node in nodes)


def _fed(before: Sequence[Node], last: Sequence[Node], inputs: _Inputs) -> dict[Node, Node] | None:
    """What the last period reads of the one before it → the last period's own such; None: they are not alike."""
    place_before = {node: place for place, node in enumerate(before)}
    place_last = {node: place for place, node in enumerate(last)}
    fed: dict[Node, Node] = {}
    read: dict[Node, Node] = {}

    def same(node: Node, other: Any) -> bool:
        if not isinstance(other, Node):
            return False
        if node in place_before or other in place_last:
            return place_before.get(node) == place_last.get(other)
        if other in place_before:  # handed on, and what is handed on is given first by something before
            fed[other] = last[place_before[other]]
            return node.op == "call_function" and read.setdefault(other, node) is node
        return inputs.of(other, 0) is node or inputs.same_constant(node, other)

    for node, other in zip(before, last, strict=True):
        if node.target is not other.target:
            return None
        if not same_arguments((node.args, node.kwargs), (other.args, other.kwargs), same):
            return None
    return fed


def _let_out(
    program: ExportedProgram, template: Sequence[Node], made: Sequence[Mapping[Node, Node]], inputs: _Inputs
) -> None:
    """Let every period's state come out, in the order of the layers."""
    output, specs = program.graph.output_node(), program.graph_signature.output_specs
    pairs = list(zip(specs, output.args[0], strict=True))
    states = [pair for pair in pairs if pair[0].kind == OutputKind.BUFFER_MUTATION and pair[1] in made[0]]
    result = []
    for spec, node in pairs:
        result.append((spec, node) if (spec, node) in states else (spec, made[-1].get(node, node)))
        if states and (spec, node) == states[-1]:
            for period, copies in enumerate(made[1:], start=_SEEN):
                result += [(inputs.let_out(each, copies[of], period), copies[of]) for each, of in states]
    program.graph_signature.output_specs = [spec for spec, _ in result]
    output.args = (tuple(node for _, node in result),)
