"""The process that compiles: TOSA graphs by Vela, and what it makes of them into one ExecuTorch program.

    python -m edgeqkv.backends.ethos.compiler DIR --out FOLDER

needs executorch and ethos-u-vela. In a process of its own, in a folder of its own: Vela takes its arguments apart at
spaces, prints to the terminal, and may run out of memory without harm to the export.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import io
import os
import re
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from edgeqkv.backends.compiling import answer, artifact_of
from edgeqkv.backends.executorch.quiet import third_party_notices_silenced
from edgeqkv.bundle.manifest import Artifact, Compiled, Graph, NpuFigures
from edgeqkv.disk.workplace import scratch
from edgeqkv.errors import UnsupportedError
from edgeqkv.extras import installed_version

__all__ = ["check_whole", "main"]

_KIB: Final = 1024
_ON_CPU: Final = re.compile(r"^CPU operators = (\d+)", re.MULTILINE)


@dataclass(frozen=True)
class _Made:
    """What became of one graph: the NPU's commands and weights as ExecuTorch's runtime takes them, and Vela's words."""

    content: bytes
    figures: NpuFigures
    system: str
    seconds: float


def main(arguments: list[str] | None = None) -> int:
    """Compile, and write what is to be known of the result."""
    parser = argparse.ArgumentParser(prog="edgeqkv.backends.ethos.compiler", description=__doc__)
    parser.add_argument("directory", type=Path, metavar="DIR", help="a bundle with an ethos-u85 target")
    parser.add_argument("--out", type=Path, help="the folder for the program")
    parser.add_argument("--job", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    directory, out = given.directory.resolve(), (given.out or given.directory).resolve()

    def compiled() -> Compiled:
        with scratch() as folder:
            return _compiled(directory, out, artifact_of("ethos-u85", directory, given.job), folder)

    return answer(given.job, compiled)


def _compiled(directory: Path, out: Path, artifact: Artifact, folder: Path) -> Compiled:
    made = {graph.name: _by_vela(directory / graph.file, graph, artifact, folder) for graph in artifact.graphs}
    with third_party_notices_silenced():
        from edgeqkv.backends.ethos.program import program

        content = program(artifact, {name: each.content for name, each in made.items()})
    file = f"ethos_u85_{artifact.details['soc']}.pte"
    out.mkdir(parents=True, exist_ok=True)
    (out / file).write_bytes(content)
    return Compiled(
        soc=artifact.details["soc"],
        compiler=f"ethos-u-vela {installed_version('ethos-u-vela')}",
        graphs=dict.fromkeys(made, file),
        binary=file,
        binary_bytes=len(content),
        fast_memory_bytes=max(1, *(each.figures.sram_bytes for each in made.values())),
        spill_bytes={name: each.figures.dram_bytes for name, each in made.items()},
        seconds={name: each.seconds for name, each in made.items()},
        figures={name: each.figures for name, each in made.items()},
        system=next(iter(made.values())).system,
    )


def _by_vela(path: Path, graph: Graph, artifact: Artifact, work: Path) -> _Made:
    """Compile one graph.

    Raises:
        UnsupportedError: Vela refuses it, or leaves an operation to the CPU; the message names it.
    """
    with third_party_notices_silenced():
        from executorch.backends.arm.arm_vela import vela_compile
        from executorch.backends.arm.ethosu.compile_spec import EthosUCompileSpec

        spec = EthosUCompileSpec(
            f"ethos-u85-{artifact.details['soc']}",
            system_config=artifact.details["system_config"],
            memory_mode=artifact.details["memory_mode"],
        )
    folder = work / graph.name
    folder.mkdir()
    os.chdir(folder)
    said = io.StringIO()
    start = time.perf_counter()
    try:
        with contextlib.redirect_stdout(said):
            result = vela_compile(path.read_bytes(), list(spec.compiler_flags), intermediate_path=os.curdir)
    except (Exception, SystemExit) as error:  # Vela's own exceptions, those of its library, or an end
        told = " ".join(str(error).split())
        raise UnsupportedError(f"Vela refuses {path.name} for Ethos-U85: {told or said.getvalue()[-400:]}") from error
    seconds = round(time.perf_counter() - start, 2)
    check_whole(path.name, said.getvalue())
    figures, system = _summary(folder)
    return _Made(result.processed_bytes, figures, system, seconds)


def check_whole(name: str, said: str) -> None:
    """See that Vela left nothing to the CPU. (Of TOSA it refuses what it cannot do. Its ``--show-cpu-operations`` lists
    lookups too, which the NPU does by copying.)

    Raises:
        UnsupportedError: it did, or does not say that it did not.
    """
    found = _ON_CPU.search(said)
    if found is not None and found[1] == "0":
        return
    told = "; ".join(line.strip() for line in said.splitlines() if "CPU" in line) or "it does not say what it did"
    raise UnsupportedError(
        f"Vela leaves a part of {name} to the CPU: {told}. Nothing was written, because each part would cost a way to "
        f"the CPU and back"
    )


def _summary(folder: Path) -> tuple[NpuFigures, str]:
    """What Vela says of a call, and of the memories that it assumes."""
    (path,) = (folder / "output").glob("*_summary_*.csv")
    with path.open(encoding="utf-8", newline="") as file:
        (row,) = csv.DictReader(file)
    return _figures(row), f"{row['system_config']}, {row['memory_mode']}"


def _figures(row: Mapping[str, str]) -> NpuFigures:
    flash = float(row["on_chip_flash_memory_used"]) + float(row["off_chip_flash_memory_used"])
    return NpuFigures(
        sram_bytes=round(float(row["sram_memory_used"]) * _KIB),
        dram_bytes=round(float(row["dram_memory_used"]) * _KIB),
        flash_bytes=round(flash * _KIB),
        cycles=round(float(row["cycles_total"])),
    )


if __name__ == "__main__":
    sys.exit(main())
