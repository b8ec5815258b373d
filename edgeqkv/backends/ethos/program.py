"""What Vela compiled, as a program of ExecuTorch: a method a graph, each one call of the NPU.

The NPU gives codes. Those of the logits become real numbers beside it, by two of ExecuTorch's own operators.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import torch
from executorch.backends.arm.ethosu.compile_spec import EthosUCompileSpec
from executorch.exir import to_edge
from executorch.exir.lowered_backend_module import LoweredBackendModule

from edgeqkv.backends.ethos._compat import told
from edgeqkv.bundle.manifest import Artifact, Graph

__all__ = ["BACKEND", "program"]

BACKEND: Final = "EthosUBackend"
"""What ExecuTorch calls the delegate."""

_TYPES: Final = {"int8": torch.int8, "int32": torch.int32, "fp32": torch.int16}  # real numbers come in codes


class _Ends(torch.nn.Module):
    """What has the outputs of a graph and computes nothing: for the exporter to know their shapes by."""

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self._ends = [(_sizes(spec.shape), _TYPES[spec.dtype]) for spec in graph.outputs]

    def forward(self, *_: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(torch.zeros(shape, dtype=dtype) for shape, dtype in self._ends)


class _Call(torch.nn.Module):
    """One call of the NPU, and what makes codes of real numbers before it, and real numbers of its codes."""

    def __init__(self, compiled: LoweredBackendModule, given: float, scale: float) -> None:
        super().__init__()
        self._compiled, self._given, self._scale = compiled, given, scale

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        codes, *rows = self._compiled(*(self._codes(each) for each in inputs))
        return codes.to(torch.float32) * self._scale, *rows

    def _codes(self, x: torch.Tensor) -> torch.Tensor:
        if not x.is_floating_point():
            return x
        return (x * (1 / self._given)).round().clamp(-32768, 32767).to(torch.int16)


def program(artifact: Artifact, compiled: Mapping[str, bytes]) -> bytes:
    """The content of a ``.pte`` with a method for each graph.

    Args:
        artifact: what the graphs are called with.
        compiled: by the name of a graph, what the NPU's driver is to be given.
    """
    spec = EthosUCompileSpec(
        f"ethos-u85-{artifact.details['soc']}",
        system_config=artifact.details["system_config"],
        memory_mode=artifact.details["memory_mode"],
    )
    methods = {}
    with torch.no_grad():
        for graph in artifact.graphs:
            codes = tuple(torch.zeros(_sizes(each.shape), dtype=_TYPES[each.dtype]) for each in graph.inputs)
            given = tuple(each.float() if each.dtype == torch.int16 else each for each in codes)
            ends = to_edge(torch.export.export(_Ends(graph), codes)).exported_program()
            lowered = LoweredBackendModule(ends, BACKEND, compiled[graph.name], told(spec))
            scale = artifact.details["logit_scales"][graph.name]
            call = _Call(lowered, artifact.details.get("input_scale", 1.0), scale)
            methods[graph.name] = torch.export.export(call, given)
        return bytes(to_edge(methods).to_executorch().buffer)


def _sizes(shape: tuple[int | str, ...]) -> list[int]:
    return [int(size) for size in shape]
