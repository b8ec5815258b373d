"""What an export's process really takes: load, prefill of the whole context and decode, in a process of its own.

The process tells its phases; its memory is read from outside, by this one: the peak of the resident size, as the
system keeps it for each phase, and the peaks of anonymous and mapped memory, sampled. Linux only.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt

from edgeqkv.backends import backend
from edgeqkv.backends.footprint import MIB, PHASES, RUNNING, Footprint, Memory, Phase, Term, count
from edgeqkv.backends.memory import Process, memory_of
from edgeqkv.bundle.manifest import Artifact
from edgeqkv.children import end_with_parent, running
from edgeqkv.disk.workplace import scratch
from edgeqkv.errors import BundleError, UnsupportedError
from edgeqkv.process import environment, python
from edgeqkv.run.session import Session, open_artifact

__all__ = ["Comparison", "Measured", "Measurement", "compare", "measurable", "measure"]

_DECODED = 8  # the last tokens of the context go one by one
_SAMPLING_SECONDS = 0.002


@dataclass(frozen=True)
class Measured:
    """One phase: the peak resident size, and the peaks of anonymous and mapped memory, in bytes."""

    resident: int
    anonymous: int
    mapped: int


@dataclass(frozen=True)
class Measurement:
    """A process's phases. ``imported`` is what it held with the runtime imported and no model: Python and all."""

    imported: Measured
    phases: dict[Phase, Measured]

    @property
    def peak(self) -> int:
        """The largest resident size, in bytes."""
        return max(measured.resident for measured in self.phases.values())


@dataclass(frozen=True)
class Comparison:
    """A prediction and a measurement, in bytes; ``error`` is relative, positive if too much was predicted."""

    name: str
    predicted: int
    measured: int

    @property
    def error(self) -> float:
        return self.predicted / self.measured - 1


def measure(
    directory: Path, artifact: Artifact, tokenizer: Path | None = None, engine: str | None = None
) -> Measurement:
    """Run a target's whole life in a fresh process, with one of its engines, and watch its memory.

    The allocator is told to hand freed blocks back at once, so that what is seen is what the runtime uses. With
    glibc's own thresholds, which rise with what is freed, the same process keeps hundreds of MiB it has no use for.

    Raises:
        UnsupportedError: this is not Linux, or the target's own runtime does not run here.
        BundleError: the process ended early.
    """
    if sys.platform != "linux":
        raise UnsupportedError("a process's memory is measured by Linux's own accounts (/proc); run --measure on Linux")
    _process(artifact.target)
    with scratch() as folder:
        (folder / "artifact.json").write_text(artifact.model_dump_json(), encoding="utf-8")
        engine = engine or backend(artifact.target).engines[0]
        command = python("edgeqkv.budget.measure", str(directory.resolve()), str(folder), engine)
        if tokenizer is not None:
            command.append(str(tokenizer.resolve()))
        watch = _watched(command, directory, folder)
    imported = watch.phases.pop("imported")
    return Measurement(imported, {phase: watch.phases[phase] for phase in PHASES})


def _watched(command: list[str], directory: Path, folder: Path) -> _Watch:
    with running(command, _environment(folder), subprocess.PIPE, folder) as process:
        assert process.stdout
        assert process.stderr
        watch, errors = _Watch(process.pid), _Drain(process.stderr)
        for line in process.stdout:
            watch.phase_ended(line)
        watch.stop()
        if process.wait():
            last = errors.text().strip().splitlines()[-1:] or [f"exit code {process.returncode}"]
            raise BundleError(f"the measured process of {directory} ended early: {last[0]}")
        errors.text()
    return watch


def measurable(target: str) -> bool:
    """Whether a target's own runtime runs on Linux."""
    return memory_of(backend(target)).process is not None


def compare(predicted: Footprint, measured: Measurement, target: str) -> tuple[Comparison, ...]:
    """Prediction beside measurement: each phase's resident size, the peak with and without what was there before the
    model, and the peaks of anonymous and mapped memory.

    The prediction's runtime is what this process held before there was a model, and what any session adds.
    """
    process = _process(target)
    here = predicted.with_terms(_runtime_here(measured, process))
    if process.regions:
        here = here.with_terms(_activations_here(predicted))
    rows = [Comparison(phase, here.resident(phase), measured.phases[phase].resident) for phase in PHASES]
    peak = max(rows, key=lambda row: row.predicted)
    rows.append(Comparison(f"peak ({peak.name})", peak.predicted, measured.peak))
    before = measured.imported.resident
    rows.append(Comparison("- above the import", peak.predicted - before, measured.peak - before))
    kinds: tuple[tuple[str, tuple[Memory, ...]], ...] = (
        ("anonymous", ("anonymous",)),
        ("mapped", ("mapped", "mapped again")),
    )
    for kind, memory in kinds:
        most = max(getattr(phase, kind) for phase in measured.phases.values())
        rows.append(Comparison(kind, max(here.total(phase, *memory) for phase in PHASES), most))
    return tuple(rows)


def _process(target: str) -> Process:
    process = memory_of(backend(target)).process
    if process is None:
        raise UnsupportedError(f"the runtime of {target} does not run on Linux, so there is nothing to measure")
    return process


def _runtime_here(measured: Measurement, process: Process) -> tuple[Term, ...]:
    imported = measured.imported
    # A runtime's library is mapped, its objects are not: two thirds to one, as counted with the built-in model.
    library, objects = process.session_bytes * 2 // 3, process.session_bytes // 3
    origin = "measured in this process before the model was opened; the session's part with the built-in model"
    formula = "Python, its packages and the runtime"
    return (
        Term("runtime", imported.anonymous + objects, "anonymous", PHASES, formula, origin),
        Term("runtime", imported.mapped + library, "mapped", PHASES, formula, origin),
    )


def _activations_here(predicted: Footprint) -> tuple[Term, ...]:
    """Activations in an arena: regions of 1, 2, 4 … MiB, as many as are needed, kept to the end (`Process.regions`)."""
    activations = Footprint(tuple(term for term in predicted.terms if term.name == "activations"))
    regions = 0
    terms = []
    for phase in RUNNING:
        live = activations.total(phase)
        while regions < live:
            regions = 2 * regions + MIB
        formula = f"{count(live)} live bytes in regions of 1, 2, 4 … MiB"
        terms.append(Term("activations", regions, "anonymous", (phase,), formula, "how the runtime's arena grows"))
    return tuple(terms)


def _environment(folder: Path) -> dict[str, str]:
    small = str(64 << 10)
    return environment(MALLOC_MMAP_THRESHOLD_=small, MALLOC_TRIM_THRESHOLD_=small, TMPDIR=str(folder))


class _Watch:
    """Samples a process's memory from a thread, and keeps the peaks of each phase that the process reports."""

    def __init__(self, pid: int) -> None:
        self._status = Path(f"/proc/{pid}/status")
        self._lock = threading.Lock()
        self._anonymous = self._mapped = 0
        self._ended = threading.Event()
        self.phases: dict[str, Measured] = {}
        threading.Thread(target=self._sample, daemon=True).start()

    def phase_ended(self, line: str) -> None:
        """Take the process's own account of the phase that it just ended, and start the next."""
        told = json.loads(line)
        with self._lock:
            anonymous = max(self._anonymous, told["anonymous"])
            mapped = max(self._mapped, told["mapped"])
            self.phases[told["phase"]] = Measured(told["resident"], anonymous, mapped)
            self._anonymous = self._mapped = 0

    def stop(self) -> None:
        self._ended.set()

    def _sample(self) -> None:
        while not self._ended.is_set():
            try:
                now = _account(self._status)
            except OSError:  # the process has ended
                return
            with self._lock:
                self._anonymous = max(self._anonymous, now.get("RssAnon", 0))
                self._mapped = max(self._mapped, now.get("RssFile", 0))
            time.sleep(_SAMPLING_SECONDS)


class _Drain:
    """Reads a pipe to its end, so that the writer is never held up."""

    def __init__(self, stream: IO[str]) -> None:
        self._text = ""
        self._stream = stream
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def text(self) -> str:
        self._thread.join()
        return self._text

    def _read(self) -> None:
        self._text = self._stream.read()


def _account(status: Path) -> dict[str, int]:
    """The sizes in a ``/proc/PID/status``, in bytes."""
    fields = (line.split(":", 1) for line in status.read_text().splitlines())
    return {name: int(value.split()[0]) * 1024 for name, value in fields if value.endswith("kB")}


def _report(phase: str) -> None:
    """Print this process's memory in the phase that ends here, and have the system start a new peak."""
    now = _account(Path("/proc/self/status"))
    told = {"phase": phase, "resident": now["VmHWM"], "anonymous": now["RssAnon"], "mapped": now["RssFile"]}
    print(json.dumps(told), flush=True)  # noqa: T201
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def _work(directory: str, folder: str, engine: str, tokenizer: str | None = None) -> None:
    """The measured process: reports after importing, loading, prefilling the context and decoding."""
    from edgeqkv.run.tokenizer import Tokenizer

    end_with_parent()
    artifact = Artifact.model_validate_json((Path(folder) / "artifact.json").read_text(encoding="utf-8"))
    import_module(_process(artifact.target).module)
    context, chunk = int(artifact.context or 0), int(artifact.chunk or 1)
    _report("imported")
    held = Tokenizer(Path(tokenizer)) if tokenizer else None
    session = open_artifact(Path(directory), artifact, engine)
    assert isinstance(session, Session)
    ids = np.random.default_rng(0).integers(0, int(artifact.vocab_size or 1), context)
    session.feed(ids[:1])  # a graph is opened when it is first called
    session.reset()
    _report("load")
    for window in sorted({graph.window or context for graph in artifact.graphs}):
        # Chunks of full length up to the window's end, and a few single tokens, so that every graph is used.
        until = max(window - _DECODED, 1)
        first = session.position + (until - session.position) % chunk
        for stop in range(first, until + 1, chunk):
            if stop > session.position:
                session.feed(ids[session.position : stop])
        if window < context:
            _decode(session, ids[until:window])
    _report("prefill")
    _decode(session, ids[session.position :])
    _report("decode")
    del held  # kept to here, as an app keeps it


def _decode(session: Session, ids: npt.NDArray[np.int64]) -> None:
    for token in ids:
        session.feed(token[None])


if __name__ == "__main__":
    _work(*sys.argv[1:])
