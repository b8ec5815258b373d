"""What happens when a private name of ExecuTorch or torch is gone."""

from __future__ import annotations

import logging
import subprocess
import sys
from dataclasses import dataclass
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from edgeqkv.backends.executorch import _compat
from edgeqkv.backends.executorch.quiet import third_party_notices_silenced
from edgeqkv.errors import UnsupportedError

with third_party_notices_silenced():
    from executorch import exir
    from executorch.backends.xnnpack import xnnpack_preprocess


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
