"""What happens when a private name of ExecuTorch or torch is gone."""

from __future__ import annotations

import copy
import logging
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import edgeqkv
from edgeqkv.backends.executorch import _compat
from edgeqkv.backends.executorch.quiet import third_party_notices_silenced
from edgeqkv.checkpoints.synthetic_encoders import write_random_vit
from edgeqkv.errors import UnsupportedError

with third_party_notices_silenced():
    from executorch import exir
    from executorch.backends.xnnpack import xnnpack_preprocess

    from edgeqkv.backends.executorch import export, lowering


def test_nothing_is_promised_without_check(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RuntimeError):
        _compat.promise(False)
    monkeypatch.delattr(torch, "_check")
    _compat.promise(False)


@pytest.mark.parametrize("gone", ["the backend", "its method"])
def test_a_lowering_that_cannot_be_observed_goes_on(gone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if gone == "the backend":
        monkeypatch.delattr(xnnpack_preprocess, "XnnpackBackend")
    else:
        monkeypatch.setattr(xnnpack_preprocess, "XnnpackBackend", object)
    seen: list[Any] = []
    with _compat.each_delegate(seen.append):
        pass
    assert seen == []


def test_a_lowering_is_observed_and_left_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    class Backend:
        @staticmethod
        def preprocess(program: Any, specs: list[Any]) -> str:
            return "serialized"

    monkeypatch.setattr(xnnpack_preprocess, "XnnpackBackend", Backend)
    seen: list[list[str]] = []
    before = Backend.preprocess
    with _compat.each_delegate(seen.append):
        program = SimpleNamespace(state_dict={"weight": torch.zeros(1), "no tensor": 1})
        assert Backend.preprocess(program, []) == "serialized"
    assert seen == [["weight"]]
    assert Backend.preprocess is before


def test_rounding_is_not_traced_where_only_shapes_are_asked_for() -> None:
    ops, x = torch.ops.torchao, torch.randn(3, 64)

    def rounded(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        scale, zero = ops.choose_qparams_affine(x, "ASYMMETRIC", (1, 64), torch.int8, zero_point_dtype=torch.int8)
        codes = ops.quantize_affine(x, (1, 64), scale, zero, torch.int8)
        return scale, zero, codes, ops.dequantize_affine(codes, (1, 64), scale, zero, torch.int8)

    def told(x: torch.Tensor) -> list[tuple[torch.Size, torch.dtype]]:
        return [(each.shape, each.dtype) for each in rounded(x)]

    before = rounded(x)
    with _compat.rounding_not_traced():
        assert all(torch.equal(now, then) for now, then in zip(rounded(x), before, strict=True))
        with FakeTensorMode() as mode:
            assert told(mode.from_tensor(x)) == [(each.shape, each.dtype) for each in before]
    assert all(torch.equal(now, then) for now, then in zip(rounded(x), before, strict=True))


def test_rounding_is_traced_without_the_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchao.quantization.quant_primitives", None)
    monkeypatch.setitem(sys.modules, "torchao.quantization", None)
    with _compat.rounding_not_traced():
        pass


def test_options_that_are_gone_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    @dataclass
    class Newer:
        _skip_dim_order: bool = False

    assert (_compat.edge_config()._check_ir_validity, _compat.edge_config()._skip_dim_order) == (False, True)
    monkeypatch.setattr(exir, "EdgeCompileConfig", Newer)
    assert _compat.edge_config() == Newer(_skip_dim_order=True)


def test_quantized_weights_are_refused_without_their_operators(monkeypatch: pytest.MonkeyPatch) -> None:
    _compat.require_gathering_operators()
    monkeypatch.setattr(torch.ops, "quantized_decomposed", SimpleNamespace(embedding_byte=None))
    with pytest.raises(UnsupportedError, match=r"quantized_decomposed::embedding_4bit.*--weights fp32"):
        _compat.require_gathering_operators()


def test_logging_is_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    logging.disable(logging.INFO)
    try:
        with third_party_notices_silenced():
            assert _compat.disabled_level() == logging.WARNING
        assert _compat.disabled_level() == logging.INFO
    finally:
        logging.disable(logging.NOTSET)
    with monkeypatch.context() as patch:
        patch.setattr(logging.root, "manager", SimpleNamespace())
        assert _compat.disabled_level() == logging.NOTSET


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
    with _compat.idle_passes_skipped():
        thinned = xnnpack_preprocess.XNNPACKPassManager(SimpleNamespace(graph=graph))
    assert [each.__name__ for each in thinned.passes] == [
        "DecomposeConcatenate",
        "ConvertToLinearPass",
        "ConstPropPass",
    ]
    assert xnnpack_preprocess.XNNPACKPassManager is manager
    monkeypatch.delattr(xnnpack_preprocess, "XNNPACKPassManager")
    with _compat.idle_passes_skipped():
        pass


def test_every_pass_that_may_be_skipped_is_one_of_theirs() -> None:
    """A name that no pass has any more would do nothing, in silence."""
    passes = xnnpack_preprocess.XNNPACKPassManager(SimpleNamespace()).passes
    assert set(_compat._FOR_OPERATORS) <= {each.__name__ for each in passes}


def test_histories_are_shared_among_copies_and_copied_again_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    source = torch.fx.traceback.NodeSource(torch.fx.Graph().placeholder("x"))
    with _compat.histories_shared():
        assert copy.deepcopy([source])[0] is source
    assert copy.deepcopy([source])[0] is not source
    monkeypatch.delattr(torch.fx.traceback, "NodeSource")
    with _compat.histories_shared():
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
    with _compat.compiled_when_called():
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
    with _compat.compiled_when_called():
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
    with third_party_notices_silenced(), _compat.decomposed_once():
        assert program.run_decompositions({}) is program
        preserved = torch.export.default_decompositions()
        preserved.pop(torch.ops.aten.silu.default)
        kept = program.run_decompositions(preserved)
        assert torch.ops.aten.silu.default in _compat._called(kept, table)
        once = kept.run_decompositions(table)
        left = _compat._called(once, table)
        assert left == {torch.ops.aten.sym_size.int}  # which is in the table and stays, however often
        assert once.run_decompositions(table) is once


def test_programs_that_cannot_be_decomposed_so_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.export.ExportedProgram, "run_decompositions")
    with _compat.decomposed_once():
        assert not hasattr(torch.export.ExportedProgram, "run_decompositions")


def test_operators_are_listed_once_and_as_ever_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    listed: list[int] = []
    monkeypatch.setattr(torch._export.utils, "_materialize_cpp_cia_ops", lambda: listed.append(1))
    with _compat.operators_listed_once():
        torch._export.utils._materialize_cpp_cia_ops()
    assert len(listed) == 1
    torch._export.utils._materialize_cpp_cia_ops()
    assert len(listed) == 2
    monkeypatch.delattr(torch._export.utils, "_materialize_cpp_cia_ops")
    with _compat.operators_listed_once():
        pass


@pytest.mark.parametrize(
    "left",
    [
        _compat.operators_listed_once,  # which by itself saves half a minute
        pytest.param(nullcontext, marks=pytest.mark.full),
    ],
)
def test_what_is_left_out_changes_no_byte(left: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {"image_size": 8, "channels": 1, "patch": 4, "n_classes": 5, "n_embd": 32, "n_layer": 1, "n_head": 2}
    model = edgeqkv.load(write_random_vit(tmp_path / "vit.pt", "q-k=v", std=0.1, **sizes))
    quick = edgeqkv.export(model, "executorch", out=tmp_path / "quick", weights="int8", verify=False)
    monkeypatch.setattr(export, "_quickly", left)
    monkeypatch.setattr(lowering, "idle_passes_skipped", nullcontext)
    slow = edgeqkv.export(model, "executorch", out=tmp_path / "slow", weights="int8", verify=False)
    assert (quick.path / "model.pte").read_bytes() == (slow.path / "model.pte").read_bytes()


def test_the_runtime_comes_without_the_exporter_which_can_still_be_imported() -> None:
    """Every process that runs a model would spend five seconds on it."""
    script = """
import sys
from edgeqkv.backends.executorch import _compat, runner
_compat.load_llm_operators()
heavy = {"executorch.exir", "torch._dynamo", "torch._inductor", "sympy"} & set(sys.modules)
assert not heavy, heavy
names = runner.Runtime.get().operator_registry.operator_names
assert {"llama::custom_sdpa.out", "llama::update_cache.out"} <= set(names), names
from edgeqkv.backends.executorch.quiet import third_party_notices_silenced
with third_party_notices_silenced():
    from executorch import exir
    assert exir.EdgeCompileConfig and _compat.import_runtime().Runtime is runner.Runtime
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_runtime_that_takes_more_of_the_exporter_gets_all_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []

    def needs_all_of_it(name: str) -> ModuleType:
        asked.append("executorch.exir" in sys.modules)
        if asked[-1]:
            raise ImportError("cannot import name 'something'")
        return ModuleType(name)

    for name in [name for name in sys.modules if name.startswith(("executorch.exir", "executorch.runtime"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(_compat, "import_module", needs_all_of_it)
    assert _compat.import_runtime().__name__ == "executorch.runtime"
    assert asked == [True, False]


def test_operators_whose_library_is_gone_come_with_their_module(monkeypatch: pytest.MonkeyPatch) -> None:
    imported: list[str] = []
    monkeypatch.setattr(_compat, "_folders", lambda package: [])
    monkeypatch.setattr(_compat, "import_module", imported.append)
    _compat.load_llm_operators()
    assert imported == ["executorch.extension.llm.custom_ops.custom_ops"]
