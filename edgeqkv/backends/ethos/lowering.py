"""From a module to what Ethos-U runs: traced, its ranges observed, rounded, and compiled by Arm's backend and Vela.

All of ExecuTorch's Arm backend that is used is used here.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import torch
from torch.fx import GraphModule

from edgeqkv.backends.ethos._compat import edge_config
from edgeqkv.backends.executorch.quiet import third_party_notices_silenced
from edgeqkv.bundle.manifest import NpuFigures
from edgeqkv.errors import UnsupportedError

with third_party_notices_silenced():
    from executorch.backends.arm.ethosu import EthosUCompileSpec, EthosUPartitioner
    from executorch.backends.arm.quantizer import EthosUQuantizer, get_symmetric_quantization_config
    from executorch.exir import EdgeProgramManager, to_edge_transform_and_lower
    from executorch.exir.delegate import executorch_call_delegate
    from executorch.exir.passes.quantize_io_pass import quantize_input, quantize_output
    from torchao.quantization.pt2e import MinMaxObserver
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

__all__ = ["Chip", "Compiler", "Ends", "Observed"]

Tensor = torch.Tensor

_LEAST_SCALE: Final = 2.0**-24
_ROUNDING: Final = ("quantize_per_tensor", "dequantize_per_tensor")
_KIB: Final = 1024


@dataclass(frozen=True)
class Chip:
    """What Vela compiles for.

    Attributes:
        macs: multiplications a cycle, by which the configurations of Ethos-U85 are called.
        memory_mode, system_config: as Vela's configuration file names them; None: the backend's default.
    """

    macs: str
    memory_mode: str | None = None
    system_config: str | None = None

    def spec(self, folder: Path) -> EthosUCompileSpec:
        """As the backend takes it, with what it makes in between left in ``folder``."""
        spec = EthosUCompileSpec(
            f"ethos-u85-{self.macs}", system_config=self.system_config, memory_mode=self.memory_mode
        )
        spec.dump_intermediate_artifacts_to(str(folder))
        return spec


@dataclass(frozen=True)
class Ends:
    """How the compiled part of a program is called.

    Attributes:
        inputs, outputs: for each of the part's own, the number of the program's.
        scale, zero: of the codes of the logits, which the program gives as real numbers.
        state_scales: by the number of a program's input, the scale of the codes that it is in.
    """

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    scale: float
    zero: int
    state_scales: Mapping[int, float]


class Observed:
    """A module that was traced and watches what it computes when it is called.

    The largest and the least number that was seen are the ends of each range, as everywhere in edgeqkv; the backend's
    histograms take a hundred times as long.
    """

    def __init__(self, module: torch.nn.Module, example: tuple[Tensor, ...], chip: Chip, folder: Path) -> None:
        self.example = example
        quantizer = EthosUQuantizer(chip.spec(folder))
        offered = get_symmetric_quantization_config(is_per_channel=True)
        watching = MinMaxObserver.with_args(eps=_LEAST_SCALE)
        activation = replace(offered.input_activation, observer_or_fake_quant_ctr=watching)
        quantizer.set_global(type(offered)(activation, activation, offered.weight, offered.bias, offered.label))
        # Guards would compare what later calls are given with the example.
        traced = torch.export.export(module, example, strict=True).module(check_guards=False)
        self._prepared: GraphModule = prepare_pt2e(traced, quantizer)

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        result: tuple[Tensor, ...] = self._prepared(*inputs)
        return result

    def fix(self, number: int, scale: float) -> None:
        """Have input ``number`` in codes of 8 bits of this scale around 0, and with it all that is joined to it."""
        node = [each for each in self._prepared.graph.nodes if each.op == "placeholder"][number]
        (watched,) = {
            str(user.target) for user in node.users if user.op == "call_module" and "post_process" in str(user.target)
        }
        observer = self._prepared.get_submodule(watched)
        observer.min_val, observer.max_val = torch.tensor(-128 * scale), torch.tensor(127 * scale)

    def rounded(self) -> torch.export.ExportedProgram:
        """The module with everything in codes."""
        return torch.export.export(convert_pt2e(self._prepared), self.example, strict=True)


class Compiler:
    """Compiles programs of several names into one file."""

    def __init__(self, chip: Chip, folder: Path) -> None:
        self._chip, self._folder = chip, folder

    def compile(
        self, programs: Mapping[str, torch.export.ExportedProgram]
    ) -> tuple[EdgeProgramManager, dict[str, Ends]]:
        """What the backend made of them, and how the ends of each are to be filled and read.

        Raises:
            UnsupportedError: an operation is left to the CPU; the message names it.
        """
        partitioners = {}
        for name in programs:
            (self._folder / name).mkdir()
            partitioners[name] = [EthosUPartitioner(self._chip.spec(self._folder / name))]
        edge = to_edge_transform_and_lower(dict(programs), partitioner=partitioners, compile_config=edge_config())
        for name in programs:
            _check_whole(name, edge.exported_program(name).graph_module)
        return edge, {name: _in_codes(edge.exported_program(name)) for name in programs}

    def graph(self, name: str) -> bytes:
        """The TOSA graph that was compiled."""
        return (self._folder / name / "out.tosa").read_bytes()  # what Vela was given

    def figures(self, name: str) -> NpuFigures:
        """What Vela says of it."""
        row = self._summary(name)
        return NpuFigures(
            sram_bytes=round(float(row["sram_memory_used"]) * _KIB),
            dram_bytes=round(float(row["dram_memory_used"]) * _KIB),
            flash_bytes=round(
                (float(row["on_chip_flash_memory_used"]) + float(row["off_chip_flash_memory_used"])) * _KIB
            ),
            cycles=round(float(row["cycles_total"])),
        )

    def system(self, name: str) -> str:
        """What Vela took the chip's memories to be, in its words."""
        row = self._summary(name)
        return f"{row['system_config']}, {row['memory_mode']}"

    def _summary(self, name: str) -> dict[str, str]:
        (path,) = (self._folder / name).rglob("*_summary_*.csv")
        with path.open(encoding="utf-8", newline="") as file:
            (row,) = csv.DictReader(file)
        return row


def _check_whole(name: str, graph: GraphModule) -> None:
    """See that there is one delegate, with nothing beside it but what rounds at the ends.

    Raises:
        UnsupportedError: there is more.
    """
    called = [node for node in graph.graph.nodes if node.op == "call_function"]
    delegates = sum(node.target is executorch_call_delegate for node in called)
    left = Counter(_name(node) for node in called if node.target is not executorch_call_delegate)
    kept = {each: count for each, count in left.items() if each != "getitem" and not each.startswith(_ROUNDING)}
    if kept or delegates != 1:
        told = ", ".join(f"{each} ({count})" for each, count in sorted(kept.items())) or "what lies between them"
        raise UnsupportedError(
            f"Arm's backend divides '{name}' into {delegates} parts for the NPU and leaves to the CPU: {told}. Nothing "
            f"was written, because each of them would cost a way to the CPU and back"
        )


def _name(node: torch.fx.Node) -> str:
    name = getattr(node.target, "__name__", str(node.target))
    return name.removeprefix("quantized_decomposed.").removeprefix("aten.")


def _in_codes(program: torch.export.ExportedProgram) -> Ends:
    """Have a program take and give its state in codes, and say how the part that was compiled is called."""
    graph = program.graph_module.graph
    results = list(graph.output_node().args[0])
    scales = {}
    nodes = {node.name: node for node in graph.nodes if node.op == "placeholder"}
    given = [nodes[str(name)] for name in program.graph_signature.user_inputs]
    for number, node in enumerate(given):
        if node.meta["val"].dtype == torch.float32:
            scales[number] = float(quantize_input(program, number)[0])
    for number in range(1, len(results)):
        quantize_output(program, number)
    logits = results[0]
    results = list(graph.output_node().args[0])
    program.graph_module.recompile()
    (call,) = (node for node in graph.nodes if node.target is executorch_call_delegate)
    parts = {results[0].args[0] if number == 0 else each: number for number, each in enumerate(results)}
    taken = {node: number for number, node in enumerate(given)}
    made = {user.args[1]: parts[user] for user in call.users if user in parts}
    return Ends(
        inputs=tuple(taken[each] for each in call.args[1:]),
        outputs=tuple(made[index] for index in sorted(made)),
        scale=float(logits.args[1]),
        zero=int(logits.args[2]),
        state_scales=scales,
    )
