"""The process that compiles: a bundle's QDQ graphs into one binary of a chip, compared with its simulation.

    python -m edgeqkv.backends.hexagon.compiler DIR --soc v75 --out FOLDER

needs onnx, onnxruntime and onnxruntime-qnn, on Linux or Windows.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any, Final

import onnx

from edgeqkv.backends.compiling import answer, artifact_of
from edgeqkv.backends.hexagon.qnn import PACKAGE, VTCM_MB, qnn_session
from edgeqkv.backends.hexagon.simulated import Comparison, compare
from edgeqkv.bundle.manifest import Compiled
from edgeqkv.errors import EdgeQKVError, UnsupportedError, VerificationFailed
from edgeqkv.extras import installed_version

__all__ = ["main"]

_MIB: Final = 1 << 20


def main(arguments: list[str] | None = None) -> int:
    """Compile, and print or write what is to be known of the result."""
    parser = argparse.ArgumentParser(prog="edgeqkv.backends.hexagon.compiler", description=__doc__)
    parser.add_argument("directory", type=Path, metavar="DIR", help="a bundle with a hexagon target")
    parser.add_argument("--soc", required=True, help="v73, v75, v79 or v81")
    parser.add_argument("--out", type=Path, help="the folder for what is compiled")
    parser.add_argument("--job", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    out = given.out or given.directory
    return answer(given.job, lambda: _compiled(given.directory, out, given.soc, given.job))


def _compiled(directory: Path, out: Path, soc: str, job: Path | None) -> Compiled:
    artifact = artifact_of("hexagon", directory, job)
    out.mkdir(parents=True, exist_ok=True)
    files = {graph.name: f"hexagon_{graph.name}_{soc}.onnx" for graph in artifact.graphs}
    for name in files.values():  # it writes over nothing
        (out / name).unlink(missing_ok=True)
    sessions, seconds = {}, {}
    for index, graph in enumerate(artifact.graphs):
        entries = {
            "ep.context_enable": "1",
            "ep.context_embed_mode": "0",
            "ep.context_file_path": str(out / files[graph.name]),
        }
        if len(files) > 1:  # one binary for all, which the last session writes
            entries["ep.share_ep_contexts"] = "1"
            entries |= {"ep.stop_share_ep_contexts": "1"} if index == len(files) - 1 else {}
        start = time.perf_counter()
        try:
            sessions[graph.name] = qnn_session(directory / graph.file, soc, entries)
        except EdgeQKVError:
            raise
        except Exception as error:  # ONNX Runtime's exceptions share no base class but this one
            raise _refused(directory / graph.file, soc, error, job or out) from error
        seconds[graph.name] = round(time.perf_counter() - start, 2)
    binary = f"hexagon_{soc}.bin"
    spilled = {name: _adopted(out / file, binary) for name, file in files.items()}
    found: Comparison = compare(directory, artifact, sessions)
    compiled = Compiled(
        soc=soc,
        compiler=f"{PACKAGE} {installed_version(PACKAGE)}",
        graphs=files,
        binary=binary,
        binary_bytes=(out / binary).stat().st_size,
        fast_memory_bytes=VTCM_MB * _MIB,
        spill_bytes=spilled,
        seconds=seconds,
        calls=found.calls,
        max_abs_error=found.max_abs_error,
        tolerance=found.tolerance,
        max_code_error=found.max_code_error,
    )
    if failure := found.failure:
        raise VerificationFailed(f"what was compiled for Hexagon {soc} is not what its graphs are: {failure}")
    return compiled


def _adopted(path: Path, binary: str) -> int:
    """Call the binary that a compiled graph loads by its own name; the spill buffer that it needs, in bytes."""
    model = onnx.load(path)
    (node,) = (node for node in model.graph.node if node.op_type == "EPContext")
    attributes: dict[str, Any] = {each.name: each for each in node.attribute}
    found = path.with_name(attributes["ep_cache_context"].s.decode())
    if found.name != binary and found.exists():
        found.rename(path.with_name(binary))
    attributes["ep_cache_context"].s = binary.encode()
    onnx.save(model, path)
    return int(attributes["max_size"].i) if "max_size" in attributes else 0


def _refused(path: Path, soc: str, error: Exception, folder: Path) -> UnsupportedError:
    """What to say of a graph that was not compiled whole: what is left of it when parts may go to the CPU."""
    trial = folder / "trial.onnx"
    entries = {"ep.context_enable": "1", "ep.context_embed_mode": "1", "ep.context_file_path": str(trial)}
    try:
        qnn_session(path, soc, entries, whole=False)
        left = [node for node in onnx.load(trial).graph.node if node.op_type != "EPContext"]
    except Exception:
        left = []
    finally:
        trial.unlink(missing_ok=True)
    computing = [node for node in left if node.op_type not in ("QuantizeLinear", "DequantizeLinear")] or left
    if not computing:
        return UnsupportedError(f"Qualcomm's compiler refuses {path.name} for Hexagon {soc}: {error}")
    named = ", ".join(f"{node.op_type} ('{node.name}')" for node in computing[:5])
    more = f" and {len(computing) - 5} more" if len(computing) > 5 else ""
    return UnsupportedError(
        f"Qualcomm's compiler leaves {len(computing)} operations of {path.name} to the CPU: {named}{more}. "
        f"Nothing was written, because each of them would cost a way to the CPU and back"
    )


if __name__ == "__main__":
    sys.exit(main())
