"""What tracing leaves out: nothing that anybody sees."""

from __future__ import annotations

import copy
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import edgeqkv
from edgeqkv.backends.executorch._compat import tracing as _tracing
from edgeqkv.backends.executorch.quiet import third_party_notices_silenced
from edgeqkv.checkpoints.synthetic_encoders import write_random_vit

with third_party_notices_silenced():
    from executorch import exir

    from edgeqkv.backends.executorch import export, lowering


def test_rounding_is_not_traced_where_only_shapes_are_asked_for() -> None:
    ops, x = torch.ops.torchao, torch.randn(3, 64)

    def rounded(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        scale, zero = ops.choose_qparams_affine(x, "ASYMMETRIC", (1, 64), torch.int8, zero_point_dtype=torch.int8)
        codes = ops.quantize_affine(x, (1, 64), scale, zero, torch.int8)
        return scale, zero, codes, ops.dequantize_affine(codes, (1, 64), scale, zero, torch.int8)

    def told(x: torch.Tensor) -> list[tuple[torch.Size, torch.dtype]]:
        return [(each.shape, each.dtype) for each in rounded(x)]

    before = rounded(x)
    with _tracing.rounding_not_traced():
        assert all(torch.equal(now, then) for now, then in zip(rounded(x), before, strict=True))
        with FakeTensorMode() as mode:
            assert told(mode.from_tensor(x)) == [(each.shape, each.dtype) for each in before]
    assert all(torch.equal(now, then) for now, then in zip(rounded(x), before, strict=True))


def test_rounding_is_traced_without_the_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchao.quantization.quant_primitives", None)
    monkeypatch.setitem(sys.modules, "torchao.quantization", None)
    with _tracing.rounding_not_traced():
        pass


def test_histories_are_shared_among_copies_and_copied_again_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    source = torch.fx.traceback.NodeSource(torch.fx.Graph().placeholder("x"))
    with _tracing.histories_shared():
        assert copy.deepcopy([source])[0] is source
    assert copy.deepcopy([source])[0] is not source
    monkeypatch.delattr(torch.fx.traceback, "NodeSource")
    with _tracing.histories_shared():
        pass


def test_graphs_are_compiled_when_somebody_asks_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def twice(x: torch.Tensor) -> torch.Tensor:
        return x + x

    compiled: list[torch.fx.Graph] = []
    write = torch.fx.Graph.python_code

    def observed(graph: torch.fx.Graph, *given: Any, **named: Any) -> Any:
        compiled.append(graph)
        return write(graph, *given, **named)

    monkeypatch.setattr(torch.fx.Graph, "python_code", observed)
    with _tracing.compiled_when_called():
        compiled.clear()
        called, read, changed, later = (torch.fx.symbolic_trace(twice) for _ in range(4))
        called.recompile()
        assert compiled == []
        assert int(called(torch.tensor(2))) == 4
        assert int(called(torch.tensor(3))) == 6
        assert compiled == [called.graph]
        assert "x + x" in read.code
        assert int(changed(torch.tensor(2))) == 4
        (add,) = (node for node in changed.graph.nodes if node.op == "call_function")
        add.args = (add.args[0], 5)
        changed.recompile()
        assert int(copy.deepcopy(changed)(torch.tensor(2))) == int(changed(torch.tensor(2))) == 7
        assert "x + 5" in changed.code
    compiled.clear()
    assert int(later(torch.tensor(2))) == 4
    assert compiled == [later.graph]
    later.recompile()  # at once, as ever
    assert compiled == [later.graph] * 2
    monkeypatch.delattr(torch.fx.GraphModule, "recompile")
    with _tracing.compiled_when_called():
        pass


@pytest.fixture(scope="module")
def program() -> torch.export.ExportedProgram:
    """A traced program with an operator that is decomposed, and one that is decomposed and stays."""

    class Module(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.silu(x) * x.shape[0]

    shapes = ({0: torch.export.Dim("rows", min=2, max=8)},)
    return torch.export.export(Module().eval(), (torch.ones(4, 2),), dynamic_shapes=shapes)


def test_a_program_is_decomposed_as_often_as_that_does_something(program: torch.export.ExportedProgram) -> None:
    table = torch.export.default_decompositions()
    with third_party_notices_silenced(), _tracing.decomposed_once():
        assert program.run_decompositions({}) is program
        preserved = torch.export.default_decompositions()
        preserved.pop(torch.ops.aten.silu.default)
        kept = program.run_decompositions(preserved)
        assert torch.ops.aten.silu.default in _tracing._called(kept, table)
        once = kept.run_decompositions(table)
        left = _tracing._called(once, table)
        assert left == {torch.ops.aten.sym_size.int}  # which is in the table and stays, however often
        assert once.run_decompositions(table) is once


def test_programs_that_cannot_be_decomposed_so_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.export.ExportedProgram, "run_decompositions")
    with _tracing.decomposed_once():
        assert not hasattr(torch.export.ExportedProgram, "run_decompositions")


def test_operators_are_listed_once_and_as_ever_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    listed: list[int] = []
    monkeypatch.setattr(torch._export.utils, "_materialize_cpp_cia_ops", lambda: listed.append(1))
    with _tracing.operators_listed_once():
        torch._export.utils._materialize_cpp_cia_ops()
    assert len(listed) == 1
    torch._export.utils._materialize_cpp_cia_ops()
    assert len(listed) == 2
    monkeypatch.delattr(torch._export.utils, "_materialize_cpp_cia_ops")
    with _tracing.operators_listed_once():
        pass


@pytest.mark.parametrize(
    "left",
    [
        _tracing.operators_listed_once,  # which by itself saves half a minute
        pytest.param(nullcontext, marks=pytest.mark.full),
    ],
)
def test_what_is_left_out_changes_no_byte(left: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {"image_size": 8, "channels": 1, "patch": 4, "n_classes": 5, "n_embd": 32, "n_layer": 1, "n_head": 2}
    model = edgeqkv.load(write_random_vit(tmp_path / "vit.pt", "q-k=v", std=0.1, **sizes))
    quick = edgeqkv.export(model, "executorch", out=tmp_path / "quick", weights="int8", verify=False)
    monkeypatch.setattr(export, "_quickly", left)
    monkeypatch.setattr(lowering, "passes_saved", nullcontext)
    slow = edgeqkv.export(model, "executorch", out=tmp_path / "slow", weights="int8", verify=False)
    assert (quick.path / "model.pte").read_bytes() == (slow.path / "model.pte").read_bytes()


def test_an_operator_is_run_again_where_it_or_what_it_is_given_has_changed() -> None:
    from executorch.exir.dialects._ops import ops
    from executorch.exir.pass_base import ExportPass

    class Replace(ExportPass):
        """Another operator for one of them, so that what follows is given something else."""

        def call_operator(self, op: Any, args: Any, kwargs: Any, meta: Any) -> Any:
            return super().call_operator(exp if op == neg else op, args, kwargs, meta)

    class Module(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.neg(torch.abs(x)) + x

    neg, exp = ops.edge.aten.neg.default, ops.edge.aten.exp.default
    with third_party_notices_silenced():
        traced = torch.export.export(Module().eval(), (torch.ones(2),))
        module = exir.to_edge(traced).exported_program().graph_module

    def values(of: torch.fx.GraphModule) -> dict[str, Any]:
        return {node.target.__name__: node.meta["val"] for node in of.graph.nodes if node.op == "call_function"}

    before = values(module)
    with _tracing.results_kept():
        kept = values(ExportPass()(module).graph_module)
        changed = values(Replace()(module).graph_module)
    assert not [name for name in before if kept[name] is not before[name]]
    assert changed["aten.abs.default"] is before["aten.abs.default"]
    assert changed["aten.add.Tensor"] is not before["aten.add.Tensor"]
    assert changed["aten.exp.default"].shape == before["aten.neg.default"].shape
    again = values(ExportPass()(module).graph_module)
    assert again["aten.abs.default"] is not before["aten.abs.default"]
