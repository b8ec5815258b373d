"""All that is used of ExecuTorch and torch without their promise that it stays as it is.

What only saves time is in `tracing` and `division`. Tried with executorch 1.5.1 and torch 2.13:

``torch._check``
    For: telling torch.export what it cannot know of a position. When it is gone: nothing is told, and torch.export
    says of which shapes it cannot know enough.
``EdgeProgramManager.to_backend``, replaced while a program is lowered
    For: putting in layers that were not traced, once a program is in the dialect that backends divide. When it is gone:
    the export says so.
``executorch.exir.program._program.remove_unused_parameters_pass``, put off until then
    For: the weights of those layers, which nothing reads until they are there. When it is gone or has another name:
    all layers are traced.
``XnnpackBackend.preprocess``, replaced while a program is lowered
    For: the lowering's progress, and giving back what it has read; it tells nobody how far it is, and one call of it
    serializes the whole model. When it is gone: the progress goes from nothing to all, and the weights' pages stay.
``EdgeCompileConfig(_check_ir_validity, _skip_dim_order)``
    For: the checks know neither the custom operators nor plain dim orders. When one is gone: it is left out, and the
    checks say what they do not know.
``torch.ops.quantized_decomposed.embedding_4bit`` and ``embedding_byte``
    For: rows of quantized tables. A module behind ``executorch.exir.passes`` defines them, which is why that is
    imported. When they are gone: quantized weights are refused, others are exported as ever.
What torch.export calls its own operators (`BOOKKEEPING`), and its wrapper of one that writes (`MUTATION`)
    For: the delegation table. When they are called otherwise: a row says only that XNNPACK does not have the operator,
    or operators that write have none.
``portable_lib._unsafe_reset_threadpool``
    For: a number of threads that was asked for. When it is gone: ExecuTorch takes as many as it likes, as ever.
``executorch.exir``, which is not run while the runtime is imported
    For: time and memory; the runtime takes one class of a warning from there, and would import all that exports, with
    torch's compiler: five seconds of a processor in every process that runs a model. When it takes more from there:
    all of it is imported, as ever.
The library ``custom_ops_aot_lib`` in ``executorch.extension.llm.custom_ops``
    For: time, as above; the module around it is for exporting. When it is gone: that is imported, and loads it.
``logging.root.manager.disable``
    For: having it as it was; `logging.disable` sets it and nothing tells it. When it is gone: nothing is disabled.
"""

from __future__ import annotations

import inspect
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

import torch

from edgeqkv.backends.executorch._compat.replaced import replaced
from edgeqkv.errors import UnsupportedError

if TYPE_CHECKING:
    from torch.export import ExportedProgram

__all__ = [
    "BOOKKEEPING",
    "MUTATION",
    "before_delegation",
    "disabled_level",
    "each_delegate",
    "edge_config",
    "import_runtime",
    "load_llm_operators",
    "promise",
    "require_gathering_operators",
    "use_threads",
]

BOOKKEEPING: Final = ("_assert_scalar", "_local_scalar_dense", "sym_size", "scalar_tensor", "arange")
"""What computes with shapes and positions."""

MUTATION: Final = "auto_functionalized_v2"
"""Its first argument is the operator that writes into what it is given."""

_EDGE_OPTIONS: Final = {"_check_ir_validity": False, "_skip_dim_order": True}
_DIVIDE: Final = "to_backend"
_DROP_UNUSED: Final = "remove_unused_parameters_pass"
_EXPORTER: Final = "executorch.exir"
_RUNTIME: Final = "executorch.runtime"
_LLM_OPERATORS: Final = "executorch.extension.llm.custom_ops"
_GATHERING: Final = ("embedding_4bit", "embedding_byte")


def promise(condition: bool) -> None:
    """Tell torch.export what it cannot know of a position; without it, shapes that depend on one cannot be traced."""
    if (check := getattr(torch, "_check", None)) is not None:
        check(condition)


@contextmanager
def before_delegation(complete: Callable[[ExportedProgram], None]) -> Iterator[None]:
    """Call ``complete`` with every program that is to be divided among backends in the block.

    Raises:
        UnsupportedError: this version of ExecuTorch divides programs in another way.
    """
    from executorch.exir import EdgeProgramManager
    from executorch.exir.program import _program

    if not hasattr(EdgeProgramManager, _DIVIDE):
        raise UnsupportedError(f"ExecuTorch's EdgeProgramManager has no {_DIVIDE}; install executorch 1.5.1")

    def completing(divide: Callable[..., Any]) -> Callable[..., Any]:
        def completed(manager: Any, partitioner: Any) -> Any:
            for name in manager.methods:
                complete(manager.exported_program(name))
                if drop_unused is not None:  # now that all that is used is there
                    drop_unused(manager.exported_program(name))
            return divide(manager, partitioner)

        return completed

    drop_unused = getattr(_program, _DROP_UNUSED, None)
    whole = replaced(_program, _DROP_UNUSED, lambda _: lambda program: program)
    with replaced(EdgeProgramManager, _DIVIDE, completing), whole:
        yield


def each_delegate(serialized: Callable[[list[str]], None]) -> AbstractContextManager[None]:
    """Call ``serialized`` with the parameters of every subgraph that XNNPACK has serialized in the block."""
    from executorch.backends.xnnpack import xnnpack_preprocess

    def observing(preprocess: Callable[..., Any]) -> Any:
        def observed(program: ExportedProgram, specs: list[Any]) -> Any:
            result = preprocess(program, specs)
            serialized([name for name, value in program.state_dict.items() if isinstance(value, torch.Tensor)])
            return result

        return staticmethod(observed)

    return replaced(getattr(xnnpack_preprocess, "XnnpackBackend", None), "preprocess", observing)


def edge_config() -> Any:
    """How programs are made ready for XNNPACK: without the checks that know too little."""
    from executorch import exir

    known = inspect.signature(exir.EdgeCompileConfig).parameters
    return exir.EdgeCompileConfig(**{name: value for name, value in _EDGE_OPTIONS.items() if name in known})


def require_gathering_operators() -> None:
    """See that rows of quantized tables can be gathered.

    Raises:
        UnsupportedError: this version of ExecuTorch has no operators for it.
    """
    import executorch.exir.passes  # noqa: F401  defines them

    missing = [name for name in _GATHERING if not hasattr(torch.ops.quantized_decomposed, name)]
    if missing:
        raise UnsupportedError(
            f"this version of ExecuTorch has no operator quantized_decomposed::{missing[0]}, which quantized weights "
            f"need: export with --weights fp32 or fp16, or install executorch 1.5.1"
        )


def import_runtime() -> ModuleType:
    """Import ``executorch.runtime`` without what exports, unless that is there already.

    In the exporter's place stands an empty package at the same folder, whose modules are found and whose own code is
    not run; it is taken away again, so that a later import of the exporter is a whole one.
    """
    if _EXPORTER in sys.modules or _RUNTIME in sys.modules:
        return import_module(_RUNTIME)
    stand_in = ModuleType(_EXPORTER)
    stand_in.__path__ = [str(Path(folder) / "exir") for folder in _folders("executorch")]
    sys.modules[_EXPORTER] = stand_in
    try:
        return import_module(_RUNTIME)
    except (ImportError, AttributeError):
        pass
    finally:
        for name in [name for name in sys.modules if name == _EXPORTER or name.startswith(f"{_EXPORTER}.")]:
            del sys.modules[name]
    return import_module(_RUNTIME)


def load_llm_operators() -> None:
    """Register the kernels of ExecuTorch's LLM extension with the runtime."""
    libraries = [file for folder in _folders(_LLM_OPERATORS) for file in Path(folder).glob("*custom_ops_aot_lib.*")]
    if len(libraries) == 1:
        torch.ops.load_library(libraries[0])  # type: ignore[no-untyped-call]
    else:
        import_module(f"{_LLM_OPERATORS}.custom_ops")


def _folders(package: str) -> list[str]:
    """Where a package lies, of which nothing is run."""
    spec = find_spec(package)
    return list(spec.submodule_search_locations or ()) if spec is not None else []


def disabled_level() -> int:
    """The level up to which logging is disabled altogether."""
    return int(getattr(logging.root.manager, "disable", logging.NOTSET))


def use_threads(count: int) -> None:
    """Have the runtime of this process use so many threads, before a program is loaded; 0: as many as it likes."""
    if not count:
        return
    from executorch.extension.pybindings import portable_lib

    reset = getattr(portable_lib, "_unsafe_reset_threadpool", None)
    if reset is not None:
        reset(count)
