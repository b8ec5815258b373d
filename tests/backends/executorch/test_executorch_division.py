"""What dividing a program leaves out, and does once for all layers that are alike."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from edgeqkv.backends.executorch._compat import division as _division
from edgeqkv.backends.executorch.quiet import third_party_notices_silenced

with third_party_notices_silenced():
    from executorch.backends.xnnpack import xnnpack_preprocess


class Pass:
    """One of XNNPACK's, by its name."""

    def __init__(self, name: str) -> None:
        self.__name__ = name


def test_passes_for_operators_that_a_graph_has_not_are_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def manager(_program: Any, _passes: Any) -> Any:
        names = ("DecomposeConcatenate", "PReLUReshapePass", "ConvertToLinearPass", "ConstPropPass")
        return SimpleNamespace(passes=[Pass(name) for name in names])

    monkeypatch.setattr(xnnpack_preprocess, "XNNPACKPassManager", manager)
    graph = torch.fx.Graph()
    x = graph.placeholder("x")
    graph.call_function(torch.ops.aten.cat.default, ([graph.call_function(torch.ops.aten.addmm.default, (x, x, x))],))
    with _division.passes_saved():
        made = xnnpack_preprocess.XNNPACKPassManager(SimpleNamespace(graph=graph))
    assert [each.__name__ for each in made._passes.passes] == [
        "DecomposeConcatenate",
        "ConvertToLinearPass",
        "ConstPropPass",
    ]
    assert xnnpack_preprocess.XNNPACKPassManager is manager
    monkeypatch.delattr(xnnpack_preprocess, "XNNPACKPassManager")
    with _division.passes_saved():
        pass


def test_every_pass_that_may_be_skipped_is_one_of_theirs() -> None:
    """A name that no pass has any more would do nothing, in silence."""
    passes = xnnpack_preprocess.XNNPACKPassManager(SimpleNamespace()).passes
    assert set(_division._FOR_OPERATORS) <= {each.__name__ for each in passes}


def graph_module(graph: torch.fx.Graph) -> torch.fx.GraphModule:
    return torch.fx.GraphModule(torch.nn.Module(), graph)


def test_nodes_are_moved_behind_what_they_read_and_the_others_stay() -> None:
    graph = torch.fx.Graph()
    x = graph.placeholder("x")
    first, second, third = (graph.call_function(torch.neg, (x,)) for _ in range(3))
    output = graph.output((second, third))
    second.args = (third,)
    first.args = (second,)
    module = graph_module(graph)
    with pytest.raises(RuntimeError):
        graph.lint()
    assert _division._put_in_order(module) is module
    graph.lint()
    assert list(graph.nodes) == [x, third, second, first, output]
    _division._put_in_order(module)
    assert list(graph.nodes) == [x, third, second, first, output]


def test_subgraphs_are_merged_unless_something_between_reads_one_and_feeds_the_other() -> None:
    from executorch.exir.backend.canonical_partitioners.group_partitioner import GroupBasedPartitioner
    from torch.fx.passes.infra.partitioner import Partition, _DependencyViewer

    graph = torch.fx.Graph()
    x = graph.placeholder("x")
    one = graph.call_function(torch.neg, (x,))
    between = graph.call_function(torch.abs, (one,))
    other = graph.call_function(torch.add, (between, one))
    beside = graph.call_function(torch.exp, (one,))
    graph.output((other, beside))
    viewer = SimpleNamespace(dependency_viewer=_DependencyViewer(graph_module(graph)))
    partitions = {index: Partition(id=index, nodes=[node]) for index, node in enumerate((one, between, other, beside))}
    theirs = GroupBasedPartitioner._can_merge_partitions
    with _division.divided_quickly():
        ours = GroupBasedPartitioner._can_merge_partitions
        assert ours is not theirs
        for first in partitions:
            for second in partitions:
                assert ours(viewer, first, second, partitions) == theirs(viewer, first, second, partitions)
    assert not theirs(viewer, 0, 2, partitions)
    assert GroupBasedPartitioner._can_merge_partitions is theirs


class Passes:
    """Counts its runs, and changes nothing."""

    def __init__(self, program: torch.export.ExportedProgram) -> None:
        self.program, self.runs = program, 0

    def transform(self) -> torch.export.ExportedProgram:
        self.runs += 1
        return self.program


class Layer(torch.nn.Module):
    def __init__(self, scale: float) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.full((4, 2), scale))
        self.scale = 3.0 if scale > 5 else 2.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.linear(x, self.weight) * self.scale


def test_passes_run_once_for_layers_that_are_alike_and_each_has_its_weights() -> None:
    programs = [torch.export.export(Layer(scale).eval(), (torch.ones(1, 2),)) for scale in (1.0, 2.0, 6.0)]
    for number, program in enumerate(programs):
        for place, node in enumerate(program.graph.nodes):
            node.meta["debug_handle"] = 100 * number + place
    known: dict[tuple[Any, ...], Any] = {}
    passes = [Passes(program) for program in programs]
    results = [_division._Once(each.program, each, known).transform() for each in passes]
    assert [each.runs for each in passes] == [1, 0, 1]  # another number in it is another layer
    assert results[1].graph is results[0].graph
    assert float(results[1].state_dict["weight"].detach()[0, 0]) == 2.0
    assert [node.meta["debug_handle"] for node in results[1].graph.nodes] == _division._handles(programs[1])
