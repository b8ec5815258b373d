"""What tracing a program and passing over it need not do: it takes time, and changes no byte of what is written.

All of it is without the promise of torch and ExecuTorch that it stays as it is. Tried with executorch 1.5.1 and torch
2.13:

``_ExportPassBase._fx`` and its ``ExportInterpreter.run_node``, replaced while a program is traced and lowered
    For: time; every pass runs every operator on shapes anew. Where neither it nor what it is given has changed, what
    came out before is taken. When one of them is gone: they are run, as ever.
``torch.fx.traceback.NodeSource``, shared while a program is lowered
    For: time; every pass copies the whole history of every node, which gets longer with each. When it is gone: the
    history is copied, as ever.
``GraphModule.recompile``, put off while a program is lowered until somebody calls or reads the code
    For: time; after every pass, 400 times, Python code is written of a graph and compiled, of which a tenth is run.
    What is compiled meanwhile in its place is an empty graph's, from ``Graph.python_code``; the code is found as
    ``_code``, and behind ``forward``. When one of them is gone: all is compiled at once, as ever.
``ExportedProgram.run_decompositions``, left out while a program is lowered where it would do nothing
    For: time; it is called three times, of which the first only makes the operators functional, which the second does
    anyway, and the last finds nothing more to do. When it is gone, or is called otherwise: it is run every time.
``torch._export.utils._materialize_cpp_cia_ops``, run once an export
    For: time; it looks through all of torch's operators, 200 times. When it is gone: nothing is replaced.
The kernels of ``torchao``'s three operators that round, replaced while a program is traced and lowered
    For: time; a fifth of an int4 export goes into working out, of thirty operators each time, what shapes come out of
    one. The kernels are read from ``torch._inductor.decomposition.decompositions``; what has shapes alone is told by
    `FakeTensor` of ``torch._subclasses``, and a `Library` takes its kernels back by ``_destroy``. When the kernels are
    not there: they are traced, as ever.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakKeyDictionary

import torch
from torch._subclasses.fake_tensor import FakeTensor

from edgeqkv.backends.executorch._compat.replaced import replaced
from edgeqkv.backends.executorch.arguments import same_arguments

if TYPE_CHECKING:
    from torch.export import ExportedProgram

__all__ = [
    "compiled_when_called",
    "decomposed_once",
    "histories_shared",
    "operators_listed_once",
    "results_kept",
    "rounding_not_traced",
]

_COMPILE: Final = "recompile"
_WRITE: Final = "python_code"
_CODE: Final = "_code"
_DECOMPOSE: Final = "run_decompositions"
_LIST_OPERATORS: Final = "_materialize_cpp_cia_ops"


@contextmanager
def results_kept() -> Iterator[None]:
    """Inside, an operator that a pass leaves as it was, on what it had before, is not run on shapes again."""
    from executorch.exir import pass_base

    passes: Any = getattr(pass_base, "_ExportPassBase", None)
    interpreter: Any = getattr(passes, "ExportInterpreter", None)

    def noting(run: Callable[..., Any]) -> Callable[..., Any]:
        def run_node(self: Any, node: torch.fx.Node) -> Any:
            self.callback.edgeqkv_node = node
            return run(self, node)

        return run_node

    def keeping(emit: Callable[..., Any]) -> Callable[..., Any]:
        def emitted(self: Any, kind: str, target: Any, args: Any, kwargs: Any, meta: Any) -> Any:
            node = getattr(self, "edgeqkv_node", None)
            if node is None or kind != "call_function" or node.target is not target or "val" not in node.meta:
                return emit(self, kind, target, args, kwargs, meta)
            if not same_arguments((node.args, node.kwargs), (args, kwargs), _stands_for):
                return emit(self, kind, target, args, kwargs, meta)
            with replaced(self, "interpreter", lambda _: _Known(node.meta["val"])):
                return emit(self, kind, target, args, kwargs, meta)

        return emitted

    with replaced(interpreter, "run_node", noting), replaced(passes, "_fx", keeping):
        yield


class _Known:
    """In an interpreter's place: says what came out before."""

    def __init__(self, result: Any) -> None:
        self._result = result

    def call_function(self, *_: Any) -> Any:
        return self._result


def _stands_for(node: torch.fx.Node, now: Any) -> bool:
    """Whether an argument is the very object that the node stood for when the graph was made."""
    if node.op == "get_attr":
        return now is getattr(node.graph.owning_module, str(node.target), None)
    was: Any = node.meta.get("val")
    if getattr(was, "constant", None) is not None:
        was = was.constant  # which is what passes are given of such an input
    return was is not None and getattr(now, "data", None) is was


@contextmanager
def histories_shared() -> Iterator[None]:
    """Inside, what torch.fx notes of where a node comes from is shared among copies; nobody writes to it."""
    source = getattr(torch.fx.traceback, "NodeSource", None)
    if source is None or hasattr(source, "__deepcopy__"):
        yield
        return
    source.__deepcopy__ = lambda self, _memo: self
    try:
        yield
    finally:
        del source.__deepcopy__


@contextmanager
def compiled_when_called() -> Iterator[None]:
    """Inside, what torch.fx writes of a graph as Python's code is written and compiled when somebody asks for it."""
    from torch.fx import Graph, GraphModule

    original, write = getattr(GraphModule, _COMPILE, None), getattr(Graph, _WRITE, None)
    if original is None or write is None or not hasattr(GraphModule(torch.nn.Module(), Graph()), _CODE):
        yield
        return
    nothing = write(Graph(), "self")

    def put_off(module: GraphModule) -> Any:
        """All that compiling does besides, with the code of an empty graph, which is taken away again."""
        with replaced(Graph, _WRITE, lambda _: lambda *_, **__: nothing):
            result = original(module)
        vars(module).pop(_CODE, None)
        for name in (_CODE, "forward"):  # of the module's own class: torch.fx makes one for each
            setattr(type(module), name, _Later(name, original))
        return result

    with replaced(GraphModule, _COMPILE, lambda _: put_off):
        yield


class _Later:
    """An attribute of a graph's module that is there once its code is compiled, which is done now."""

    def __init__(self, name: str, compiled: Callable[[Any], Any]) -> None:
        self._name, self._compiled = name, compiled

    def __get__(self, module: Any, kind: type) -> Any:
        if module is None:
            return self
        self._compiled(module)
        return getattr(module, self._name)


def decomposed_once() -> AbstractContextManager[None]:
    """Inside, a program is not decomposed again where nothing is left to decompose."""
    from torch.export import ExportedProgram

    # What a program still has of the operators that it was decomposed of: they stay, however often that is done.
    kept: WeakKeyDictionary[ExportedProgram, set[Any]] = WeakKeyDictionary()

    def once(decompose: Callable[..., ExportedProgram]) -> Callable[..., ExportedProgram]:
        def run(program: ExportedProgram, *tables: Any, **options: Any) -> ExportedProgram:
            if len(tables) == 1 and not options:
                if not len(tables[0]):
                    return program
                if program in kept and _called(program, tables[0]) <= kept[program]:
                    return program
            result = decompose(program, *tables, **options)
            kept[result] = _called(result, tables[0]) if tables else set()
            return result

        return run

    return replaced(ExportedProgram, _DECOMPOSE, once)


def _called(program: ExportedProgram, table: Any) -> set[Any]:
    """The operators of a table that a program calls."""
    return {node.target for node in program.graph.nodes if node.op == "call_function" and node.target in table}


def operators_listed_once() -> AbstractContextManager[None]:
    """Inside, torch's operators are not gathered anew for every one of them that is decomposed."""
    from torch._export import utils

    def listed(gather: Callable[[], None]) -> Callable[[], None]:
        gather()
        return lambda: None

    return replaced(utils, _LIST_OPERATORS, listed)


@contextmanager
def rounding_not_traced() -> Iterator[None]:
    """Inside, operators that round say at once what shapes come out where they are given shapes alone."""
    try:
        from torch._inductor.decomposition import decompositions
        from torchao.quantization import quant_primitives  # noqa: F401  defines the operators

        kernels = {name: decompositions[getattr(torch.ops.torchao, name).default] for name in _SHAPES_OF_ROUNDING}
        library: Any = torch.library.Library("torchao", "IMPL")  # type: ignore[no-untyped-call]
    except (ImportError, AttributeError, KeyError):
        yield
        return
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # that a kernel is replaced
            for name, kernel in kernels.items():
                either = _shapes_or(kernel, _SHAPES_OF_ROUNDING[name])
                library.impl(name, either, "CompositeImplicitAutograd", allow_override=True)
        yield
    finally:
        library._destroy()


def _shapes_or(kernel: Callable[..., Any], shapes: Callable[..., Any]) -> Callable[..., Any]:
    def choose(x: torch.Tensor, *given: Any, **named: Any) -> Any:
        return (shapes if type(x) is FakeTensor else kernel)(x, *given, **named)

    return choose


def _shapes_of_choosing(
    x: torch.Tensor,
    mapping: str,
    block: list[int],
    dtype: torch.dtype,
    lowest: int | None = None,
    highest: int | None = None,
    least: float | None = None,
    scale_dtype: torch.dtype | None = None,
    zero_dtype: torch.dtype | None = None,
    keepdim: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Of a scale and a zero point for every block."""
    sizes = zip(x.shape, block, strict=True)
    counts = [size // each for size, each in sizes if keepdim or each == 1 or size != each]
    return x.new_empty(counts, dtype=scale_dtype or x.dtype), x.new_empty(counts, dtype=zero_dtype or torch.int32)


_SHAPES_OF_ROUNDING: Final[dict[str, Callable[..., Any]]] = {
    "choose_qparams_affine": _shapes_of_choosing,
    "quantize_affine": lambda x, block, scale, zero, dtype, *_: torch.empty_like(x, dtype=dtype),
    "dequantize_affine": lambda x, *_, output_dtype=torch.float32, **__: torch.empty_like(x, dtype=output_dtype),
}
