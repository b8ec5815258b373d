"""Running an artifact in a process of its own, which knows nothing but the files.

It holds no copy of the original, a runtime that crashes is a failed verification and not a lost export, and what it
needs in memory is what an app would need. Everything that runs an artifact on behalf of a stage goes through here:
comparisons, perplexities, speeds.

The process is given a folder with ``job.json`` and arrays, and prints lines of JSON: how far it is, and at last the
result or the error.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Mapping
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeqkv import errors
from edgeqkv.backends import REGISTRY, backend
from edgeqkv.backends.memory import memory_of
from edgeqkv.bundle.manifest import Artifact, Ranges, Verification
from edgeqkv.children import end_with_parent, running
from edgeqkv.disk.workplace import scratch
from edgeqkv.errors import EdgeQKVError, UnsupportedError, VerificationFailed
from edgeqkv.pipeline.proof import Proof, load_proof
from edgeqkv.pipeline.ranges import measure_ranges
from edgeqkv.process import environment, python
from edgeqkv.progress import Fraction, Progress, silent
from edgeqkv.run.bandwidth import read_bandwidth
from edgeqkv.run.bench import Load, Round, bench_round
from edgeqkv.run.perplexity import session_perplexity
from edgeqkv.run.session import EncoderSession, Session, choose_engine, open_artifact
from edgeqkv.threads import threads_environment, threads_wanted

__all__ = ["bench_in_worker", "compare_in_worker", "perplexity_in_worker", "ranges_in_worker"]

_Opened = partial[Session | EncoderSession]
"""What opens the session that a task is about."""


def compare_in_worker(
    directory: Path, artifact: Artifact, proof: Proof, engine: str, on_fraction: Fraction | None = None
) -> Verification:
    """Compare an artifact in ``directory`` with a proof; ``on_fraction`` is told of the part that is done.

    Raises:
        VerificationFailed: the runtime crashed.
        EdgeQKVError: what the process raised.
    """

    def on_progress(_: str, fraction: float | None) -> None:
        if on_fraction is not None and fraction is not None:
            on_fraction(fraction)

    result = _in_worker("compare", directory, artifact, engine, proof.arrays(), on_progress)
    return Verification.model_validate(result)


def ranges_in_worker(directory: Path, artifact: Artifact, engine: str) -> Ranges:
    """What a target's range engine says of an artifact (`edgeqkv.pipeline.ranges`); why not, where it cannot.

    Raises:
        VerificationFailed: the process crashed.
    """
    try:
        return Ranges.model_validate(_in_worker("ranges", directory, artifact, engine, {}))
    except UnsupportedError as error:
        return Ranges(engine=engine, note=str(error))


def perplexity_in_worker(
    directory: Path, artifact: Artifact, tokens: npt.NDArray[np.int64], engine: str, on_progress: Progress = silent
) -> tuple[float, int]:
    """Perplexity of an artifact on ``tokens [n]``, and how many of them were predicted."""
    perplexity, count = _in_worker("perplexity", directory, artifact, engine, {"tokens": tokens}, on_progress)
    return float(perplexity), int(count)


def bench_in_worker(directory: Path, artifact: Artifact, engine: str, load: Load, threads: int | None) -> Round:
    """How fast an artifact is here; see `edgeqkv.run.bench.bench_round`. ``threads`` is how many it may use."""
    wanted = {"load": np.frombuffer(load.model_dump_json().encode(), np.uint8)}
    row = _in_worker("bench", directory, artifact, engine, wanted, threads=threads)
    return Round.model_validate(row)


def _in_worker(
    task: str,
    directory: Path,
    artifact: Artifact,
    engine: str,
    arrays: Mapping[str, Any],
    on_progress: Progress = silent,
    threads: int | None = None,
) -> Any:
    target = backend(artifact.target)
    choose_engine(target, engine)
    job = {
        "task": task,
        "directory": str(directory.resolve()),
        "engine": engine,
        "artifact": artifact.model_dump(mode="json"),
        "registry": REGISTRY,
    }
    with scratch() as folder, (folder / "log").open("w+", encoding="utf-8", errors="replace") as log:
        np.savez(folder / "arrays.npz", **arrays)
        (folder / "job.json").write_text(json.dumps(job), encoding="utf-8")
        surroundings = _environment(folder) | threads_environment(threads)
        with running(python("edgeqkv.pipeline.worker", str(folder)), surroundings, log, folder) as process:
            assert process.stdout
            result: dict[str, Any] = {}
            for line in process.stdout:
                result = json.loads(line)
                if "progress" in result:
                    on_progress(*result["progress"])
        log.seek(0)
        return _result(result, process.returncode, log.read(), f"{target.title} ({engine})")


def _environment(folder: Path) -> dict[str, str]:
    # glibc raises this threshold as large blocks are freed, and keeps what it then allocates below it: without
    # a fixed value the process grows to several times what the runtime uses at once.
    return environment(MALLOC_MMAP_THRESHOLD_=str(1 << 20), TMPDIR=str(folder))


def _result(last: Mapping[str, Any], code: int, log: str, runtime: str) -> Any:
    if code == 0 and "result" in last:
        return last["result"]
    if "error" in last:
        raise getattr(errors, last["error"]["type"], EdgeQKVError)(last["error"]["message"])
    end = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"stopped with exit code {code}"
    last_words = log.strip().splitlines()[-1:] or ["and said nothing"]
    raise VerificationFailed(f"{runtime} {end} while running the exported model: {last_words[0]}")


def _work(folder: Path) -> int:
    """The other process."""
    end_with_parent()
    job = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    REGISTRY.update(job["registry"])
    tasks = {"compare": _compare, "ranges": _ranges, "perplexity": _perplexity, "bench": _bench}
    try:
        artifact = Artifact.model_validate(job["artifact"])
        task = tasks[job["task"]]
        opened = partial(open_artifact, Path(job["directory"]), artifact, job["engine"])
        _print({"result": task(opened, folder / "arrays.npz", job["engine"])})
    except EdgeQKVError as error:
        _print({"error": {"type": type(error).__name__, "message": str(error)}})
        return EdgeQKVError.exit_code
    return 0


def _compare(opened: _Opened, arrays: Path, engine: str) -> Any:
    said = 0.0

    def on_fraction(fraction: float) -> None:
        nonlocal said
        if fraction >= said + 0.01:  # a line a token would be thousands
            said = fraction
            _print({"progress": ["comparing", fraction]})

    return load_proof(arrays).compare(opened(), engine, on_fraction).model_dump(mode="json")


def _ranges(opened: _Opened, arrays: Path, engine: str) -> Any:
    return measure_ranges(opened(), engine).model_dump(mode="json")


def _perplexity(opened: _Opened, arrays: Path, engine: str) -> Any:
    session = opened()
    assert isinstance(session, Session)
    with np.load(arrays) as file:
        return session_perplexity(session, file["tokens"], lambda *stage: _print({"progress": stage}))


def _bench(opened: _Opened, arrays: Path, engine: str) -> Any:
    with np.load(arrays) as file:
        load = Load.model_validate_json(bytes(file["load"]))
    process = memory_of(backend(opened.args[1].target)).process
    if process is not None:
        import_module(process.module)
    measured = bench_round(opened, load)
    return measured.model_copy(update={"bytes_per_second": read_bandwidth(threads_wanted())}).model_dump(mode="json")


def _keep_to_ourselves() -> None:
    """What native libraries print goes to the log, and stdout is for our lines alone."""
    sys.stdout = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)


def _print(line: Mapping[str, Any]) -> None:
    print(json.dumps(line), flush=True)  # noqa: T201


if __name__ == "__main__":
    _keep_to_ourselves()
    sys.exit(_work(Path(sys.argv[1])))
