"""Processes that compute together, with the variables that a launcher gives them.

They are forks of one that has imported what they need, which would take each of them seconds.

    python launched.py FOLDER      whose request.json says what to import, and what to start, one group after the other
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

__all__ = ["Ended", "Process", "launched"]

ROOT = Path(__file__).parents[2]
PATIENCE = 900  # seconds


@dataclass(frozen=True)
class Process:
    """``python -m`` of a module, in a folder, with further variables."""

    module: str
    arguments: Sequence[str]
    folder: str
    variables: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Ended:
    """Exit code, which is negative for a signal, and what was printed."""

    code: int
    stdout: str
    stderr: str


def launched(folder: Path, imported: Sequence[str], *groups: Sequence[Process]) -> list[list[Ended]]:
    """How each process ended: those of a group run together, as its first, second and so on, on the CPU.

    ``imported`` are modules that all of them need; ``folder`` is for what passes between them and this process.
    """
    request = {"imported": [*imported], "groups": [[asdict(each) for each in group] for group in groups]}
    (folder / "request.json").write_text(json.dumps(request), encoding="utf-8")
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests/support"), os.environ.get("PYTHONPATH", "")])
    shared = {**os.environ, "PYTHONPATH": path, "ACCELERATE_USE_CPU": "true"}
    command = [sys.executable, "-P", __file__, str(folder)]
    with subprocess.Popen(command, env=shared, start_new_session=True) as process:
        try:
            assert process.wait(PATIENCE) == 0
        finally:
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGKILL)
    return [[Ended(*each) for each in group] for group in json.loads((folder / "ended.json").read_text("utf-8"))]


def _free_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


def _main(folder: Path) -> None:
    from importlib import import_module

    request = json.loads((folder / "request.json").read_text(encoding="utf-8"))
    for name in request["imported"]:
        import_module(name)
    ended = []
    for number, group in enumerate(request["groups"]):
        shared = {"WORLD_SIZE": str(len(group)), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": _free_port()}
        started = []
        for rank, each in enumerate(group):
            said = [folder / f"{number}.{rank}.{name}" for name in ("out", "err")]
            started.append((_fork(Process(**each), shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)}, said), said))
        codes = [os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) for process, _ in started]
        texts = [[path.read_text(encoding="utf-8") for path in said] for _, said in started]
        ended.append([[code, *text] for code, text in zip(codes, texts, strict=True)])
    (folder / "ended.json").write_text(json.dumps(ended), encoding="utf-8")


def _fork(process: Process, launcher: Mapping[str, str], said: Sequence[Path]) -> int:
    """Start it; its process id."""
    import runpy
    import traceback

    forked = os.fork()
    if forked:
        return forked
    code = 1
    try:
        for number, path in enumerate(said, start=1):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
        os.chdir(process.folder)
        os.environ.update({**launcher, **process.variables})
        sys.argv = [process.module, *process.arguments]
        runpy.run_module(process.module, run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
