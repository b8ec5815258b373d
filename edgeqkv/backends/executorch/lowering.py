"""From exported programs to a ``.pte``: XNNPACK, memory planning, emission."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from executorch.backends.xnnpack.xnnpack_preprocess import XnnpackBackend
from executorch.exir import (
    EdgeCompileConfig,
    ExecutorchBackendConfig,
    ExecutorchProgramManager,
    to_edge_transform_and_lower,
)
from executorch.exir.passes import MemoryPlanningPass
from torch.export import ExportedProgram

from edgeqkv.backends.executorch.delegation import delegation_table

__all__ = ["lower", "write"]

Metadata = dict[str, int | bool | list[int]]


def lower(
    programs: dict[str, ExportedProgram], metadata: Metadata, serialized: Callable[[list[str]], None]
) -> tuple[ExecutorchProgramManager, list[dict[str, Any]]]:
    """Delegate to XNNPACK and plan the memory.

    Args:
        programs: method name → exported program; emptied, so that they can be freed.
        metadata: what the methods that only return a constant are to return.
        serialized: called with the names of the parameters whose values XNNPACK has taken a copy of.

    Returns:
        The program, and the delegation table.
    """
    methods = list(programs)
    with _each_delegate(serialized):
        edge = to_edge_transform_and_lower(
            dict(programs),
            partitioner=[XnnpackPartitioner()],
            constant_methods=metadata,
            # The checks know neither the custom operators nor plain dim orders.
            compile_config=EdgeCompileConfig(_check_ir_validity=False, _skip_dim_order=True),
        )
    programs.clear()
    table = [row for name in methods for row in delegation_table(name, edge.exported_program(name).graph_module)]
    planning = MemoryPlanningPass(alloc_graph_input=False, share_mutable_buffers=len(methods) > 1)
    return edge.to_executorch(
        ExecutorchBackendConfig(
            memory_planning_pass=planning,
            emit_mutable_buffer_names=True,  # by which the state is found in the plan
            run_reinplace_pass=True,  # `index_put` writes into the state instead of a copy of it
        )
    ), table


def write(program: ExecutorchProgramManager, path: Path) -> None:
    """Write the file piece by piece."""
    with path.open("wb") as file:
        program.write_to_file(file)


@contextmanager
def _each_delegate(serialized: Callable[[list[str]], None]) -> Iterator[None]:
    """Call ``serialized`` with the parameters of every subgraph that XNNPACK has serialized.

    The lowering tells nobody how far it is, and one call of it serializes the whole model: this is where its
    progress can be seen and where what it has read can be given back.
    """
    preprocess = XnnpackBackend.preprocess

    def observed(program: ExportedProgram, specs: list[Any]) -> Any:
        result = preprocess(program, specs)
        serialized([name for name, value in program.state_dict.items() if isinstance(value, torch.Tensor)])
        return result

    XnnpackBackend.preprocess = staticmethod(observed)
    try:
        yield
    finally:
        XnnpackBackend.preprocess = staticmethod(preprocess)
