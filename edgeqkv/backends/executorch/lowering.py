"""From exported programs to a ``.pte``: XNNPACK, memory planning, emission."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from executorch.exir import (
    ExecutorchBackendConfig,
    ExecutorchProgramManager,
    to_edge_transform_and_lower,
)
from executorch.exir.passes import MemoryPlanningPass
from torch.export import ExportedProgram

from edgeqkv.backends.executorch._compat import before_delegation, each_delegate, edge_config
from edgeqkv.backends.executorch._compat.division import divided_quickly, passes_saved
from edgeqkv.backends.executorch.delegation import delegation_table

__all__ = ["Lowered", "Metadata", "lower", "write"]

Metadata = dict[str, int | bool | str | list[int]]

Lowered = tuple[ExecutorchProgramManager, list[dict[str, Any]]]
"""The program, and the delegation table."""


def lower(
    programs: dict[str, ExportedProgram],
    metadata: Metadata,
    complete: Callable[[ExportedProgram], None],
    serialized: Callable[[list[str]], None],
) -> Lowered:
    """Delegate to XNNPACK and plan the memory.

    Args:
        programs: method name → exported program; emptied, so that they can be freed.
        metadata: what the methods that only return a constant are to return.
        complete: what is still to be done to a program before it is divided among backends.
        serialized: called with the names of the parameters whose values XNNPACK has taken a copy of.

    Returns:
        The program, and the delegation table.
    """
    methods = list(programs)
    with before_delegation(complete), divided_quickly(), each_delegate(serialized), passes_saved():
        edge = to_edge_transform_and_lower(
            dict(programs),
            partitioner=[XnnpackPartitioner()],
            constant_methods=metadata,
            compile_config=edge_config(),
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
