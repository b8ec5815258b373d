"""All that is used of ExecuTorch and torch without their promise that it stays as it is.

Tried with executorch 1.5.1 and torch 2.13:

``torch._check``
    For: telling torch.export what it cannot know of a position. When it is gone: nothing is told, and torch.export
    says of which shapes it cannot know enough.
``EdgeProgramManager.to_backend``, replaced while a program is lowered
    For: putting in layers that were not traced, once a program is in the dialect that backends divide. When it is gone:
    the export says so.
``executorch.exir.program._program.remove_unused_parameters_pass``, left out while a program is lowered
    For: the weights of those layers, which nothing reads until they are there. When it is gone or has another name:
    all layers are traced.
``GraphModule.__str__``, ``lowered_backend_module.legalize_graph`` and ``GroupBasedPartitioner._can_merge_partitions``,
replaced while a program is lowered
    For: time that grows with the square of the layers. For every subgraph that a backend is given, the whole program is
    printed for a log that nobody keeps, and sorted although it is in order; whether two subgraphs may be one is asked
    of every pair, node by node. When one of them is gone: it is done as ever.
``_ExportPassBase._fx`` and its ``ExportInterpreter.run_node``, replaced while a program is traced and lowered
    For: time; every pass runs every operator on shapes anew. Where neither it nor what it is given has changed, what
    came out before is taken. When one of them is gone: they are run, as ever.
``XnnpackBackend.preprocess``, replaced while a program is lowered
    For: the lowering's progress, and giving back what it has read; it tells nobody how far it is, and one call of it
    serializes the whole model. When it is gone: the progress goes from nothing to all, and the weights' pages stay.
``XNNPACKPassManager.passes``, thinned out while a program is lowered
    For: time; each of the 17 passes traces its subgraph anew, also those for operators that the subgraph has not. When
    it is gone, or its passes are called otherwise: all of them run, as ever.
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
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakKeyDictionary

import torch
from torch._subclasses.fake_tensor import FakeTensor

from edgeqkv.errors import UnsupportedError

if TYPE_CHECKING:
    from torch.export import ExportedProgram

__all__ = [
    "BOOKKEEPING",
    "MUTATION",
    "before_delegation",
    "compiled_when_called",
    "decomposed_once",
    "disabled_level",
    "divided_quickly",
    "each_delegate",
    "edge_config",
    "histories_shared",
    "idle_passes_skipped",
    "import_runtime",
    "load_llm_operators",
    "operators_listed_once",
    "promise",
    "require_gathering_operators",
    "results_kept",
    "rounding_not_traced",
    "use_threads",
]

BOOKKEEPING: Final = ("_assert_scalar", "_local_scalar_dense", "sym_size", "scalar_tensor", "arange")
"""What computes with shapes and positions."""

MUTATION: Final = "auto_functionalized_v2"
"""Its first argument is the operator that writes into what it is given."""

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

_EDGE_OPTIONS: Final = {"_check_ir_validity": False, "_skip_dim_order": True}
_COMPILE: Final = "recompile"
_WRITE: Final = "python_code"
_CODE: Final = "_code"
_DECOMPOSE: Final = "run_decompositions"
_DIVIDE: Final = "to_backend"
_DROP: Final = "remove_unused_parameters_pass"
_NOT_DIVIDED: Final = "EdgeProgramManager has no method to_backend; install executorch 1.5.1"
_LIST_OPERATORS: Final = "_materialize_cpp_cia_ops"
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

    original = getattr(EdgeProgramManager, _DIVIDE, None)
    if original is None:
        raise UnsupportedError(_NOT_DIVIDED)
    drop = getattr(_program, _DROP, None)

    def completed(manager: Any, partitioner: Any) -> Any:
        for name in manager.methods:
            complete(manager.exported_program(name))
        return original(manager, partitioner)

    setattr(EdgeProgramManager, _DIVIDE, completed)
    if drop is not None:
        setattr(_program, _DROP, lambda program: program)
    try:
        yield
    finally:
        setattr(EdgeProgramManager, _DIVIDE, original)
        if drop is not None:
            setattr(_program, _DROP, drop)


@contextmanager
def each_delegate(serialized: Callable[[list[str]], None]) -> Iterator[None]:
    """Call ``serialized`` with the parameters of every subgraph that XNNPACK has serialized in the block."""
    from executorch.backends.xnnpack import xnnpack_preprocess

    backend = getattr(xnnpack_preprocess, "XnnpackBackend", None)
    preprocess = getattr(backend, "preprocess", None)
    if backend is None or preprocess is None:
        yield
        return

    def observed(program: ExportedProgram, specs: list[Any]) -> Any:
        result = preprocess(program, specs)
        serialized([name for name, value in program.state_dict.items() if isinstance(value, torch.Tensor)])
        return result

    backend.preprocess = staticmethod(observed)
    try:
        yield
    finally:
        backend.preprocess = staticmethod(preprocess)


@contextmanager
def idle_passes_skipped() -> Iterator[None]:
    """Inside, XNNPACK's passes for operators that a subgraph does not have are not run on it."""
    from executorch.backends.xnnpack import xnnpack_preprocess

    original = getattr(xnnpack_preprocess, "XNNPACKPassManager", None)
    if original is None:
        yield
        return

    def thinned(program: ExportedProgram, passes: Any = None) -> Any:
        manager = original(program, passes)
        if hasattr(manager, "passes"):
            present = {getattr(node.target, "__name__", "") for node in program.graph.nodes}
            manager.passes = [each for each in manager.passes if _has_work(each.__name__, present)]
        return manager

    xnnpack_preprocess.XNNPACKPassManager = thinned
    try:
        yield
    finally:
        xnnpack_preprocess.XNNPACKPassManager = original


def _has_work(name: str, present: set[str]) -> bool:
    parts = _FOR_OPERATORS.get(name)
    return parts is None or any(part in operator for part in parts for operator in present)


@contextmanager
def divided_quickly() -> Iterator[None]:
    """Inside, a program is divided among backends without work that grows with the square of its length."""
    with _graphs_not_printed(), _sorted_where_needed(), _merged_by_sets():
        yield


@contextmanager
def _replaced(owner: Any, name: str, change: Callable[[Any], Any]) -> Iterator[None]:
    """Inside, an attribute is what ``change`` makes of it; one that is not there stays away."""
    original = getattr(owner, name, None)
    if original is None:
        yield
        return
    setattr(owner, name, change(original))
    try:
        yield
    finally:
        setattr(owner, name, original)


def _graphs_not_printed() -> AbstractContextManager[None]:
    return _replaced(torch.fx.GraphModule, "__str__", lambda _: object.__repr__)


def _sorted_where_needed() -> AbstractContextManager[None]:
    from executorch.exir import lowered_backend_module

    def changed(sort: Callable[[Any], Any]) -> Callable[[Any], Any]:
        return lambda module: module if _is_in_order(module.graph) else sort(module)

    return _replaced(lowered_backend_module, "legalize_graph", changed)


def _is_in_order(graph: torch.fx.Graph) -> bool:
    """Whether every node comes after what it reads."""
    before: set[torch.fx.Node] = set()
    for node in graph.nodes:
        if not before.issuperset(node.all_input_nodes):
            return False
        before.add(node)
    return True


def _merged_by_sets() -> AbstractContextManager[None]:
    from executorch.exir.backend.canonical_partitioners import group_partitioner
    from torch.fx.passes.utils.fuser_utils import validate_partition

    def can_merge(partitioner: Any, one: int, other: int, partitions: Any) -> bool:
        """Whether nothing outside of the two depends on one and is what the other depends on."""
        nodes = {*partitions[one].nodes, *partitions[other].nodes}
        readers = {user for node in nodes for user in node.users} - nodes
        after = partitioner.dependency_viewer.downstreams_of
        return all(nodes.isdisjoint(after(user)) for user in readers) and validate_partition(list(nodes))

    return _replaced(group_partitioner.GroupBasedPartitioner, "_can_merge_partitions", lambda _: can_merge)


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
            if not _is_as_before((node.args, node.kwargs), (args, kwargs)):
                return emit(self, kind, target, args, kwargs, meta)
            running, self.interpreter = self.interpreter, _Known(node.meta["val"])
            try:
                return emit(self, kind, target, args, kwargs, meta)
            finally:
                self.interpreter = running

        return emitted

    with _replaced(interpreter, "run_node", noting), _replaced(passes, "_fx", keeping):
        yield


class _Known:
    """In an interpreter's place: says what came out before."""

    def __init__(self, result: Any) -> None:
        self._result = result

    def call_function(self, *_: Any) -> Any:
        return self._result


def _is_as_before(before: Any, now: Any) -> bool:
    """Whether a node's arguments stand for the very objects that they stood for when the graph was made."""
    if isinstance(before, torch.fx.Node):
        if before.op == "get_attr":
            return now is getattr(before.graph.owning_module, str(before.target), None)
        was: Any = before.meta.get("val")
        if getattr(was, "constant", None) is not None:
            was = was.constant  # which is what passes are given of such an input
        return was is not None and getattr(now, "data", None) is was
    if isinstance(before, (tuple, list)):
        return isinstance(now, (tuple, list)) and len(before) == len(now) and all(map(_is_as_before, before, now))
    if isinstance(before, dict):
        return before.keys() == now.keys() and all(_is_as_before(before[key], now[key]) for key in before)
    return type(before) is type(now) and bool(before == now)


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
        current = getattr(Graph, _WRITE)
        setattr(Graph, _WRITE, lambda *_, **__: nothing)
        try:
            result = original(module)
        finally:
            setattr(Graph, _WRITE, current)
        vars(module).pop(_CODE, None)
        for name in (_CODE, "forward"):  # of the module's own class: torch.fx makes one for each
            setattr(type(module), name, _Later(name, original))
        return result

    setattr(GraphModule, _COMPILE, put_off)
    try:
        yield
    finally:
        setattr(GraphModule, _COMPILE, original)


class _Later:
    """An attribute of a graph's module that is there once its code is compiled, which is done now."""

    def __init__(self, name: str, compiled: Callable[[Any], Any]) -> None:
        self._name, self._compiled = name, compiled

    def __get__(self, module: Any, kind: type) -> Any:
        if module is None:
            return self
        self._compiled(module)
        return getattr(module, self._name)


@contextmanager
def decomposed_once() -> Iterator[None]:
    """Inside, a program is not decomposed again where nothing is left to decompose."""
    from torch.export import ExportedProgram

    original = getattr(ExportedProgram, _DECOMPOSE, None)
    if original is None:
        yield
        return
    # What a program still has of the operators that it was decomposed of: they stay, however often that is done.
    kept: WeakKeyDictionary[ExportedProgram, set[Any]] = WeakKeyDictionary()

    def run(program: ExportedProgram, *tables: Any, **options: Any) -> ExportedProgram:
        if len(tables) == 1 and not options:
            if not len(tables[0]):
                return program
            if program in kept and _called(program, tables[0]) <= kept[program]:
                return program
        result: ExportedProgram = original(program, *tables, **options)
        kept[result] = _called(result, tables[0]) if tables else set()
        return result

    setattr(ExportedProgram, _DECOMPOSE, run)
    try:
        yield
    finally:
        setattr(ExportedProgram, _DECOMPOSE, original)


def _called(program: ExportedProgram, table: Any) -> set[Any]:
    """The operators of a table that a program calls."""
    return {node.target for node in program.graph.nodes if node.op == "call_function" and node.target in table}


@contextmanager
def operators_listed_once() -> Iterator[None]:
    """Inside, torch's operators are not gathered anew for every one of them that is decomposed."""
    from torch._export import utils

    original = getattr(utils, _LIST_OPERATORS, None)
    if original is None:
        yield
        return
    original()
    setattr(utils, _LIST_OPERATORS, lambda: None)
    try:
        yield
    finally:
        setattr(utils, _LIST_OPERATORS, original)


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
                replaced = _shapes_or(kernel, _SHAPES_OF_ROUNDING[name])
                library.impl(name, replaced, "CompositeImplicitAutograd", allow_override=True)
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
