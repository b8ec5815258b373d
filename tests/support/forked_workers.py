"""The processes that run artifacts (`edgeqkv.pipeline.worker`), as forks of one that has imported what they need.

A suite starts hundreds of them, and each would spend up to three seconds of a processor on imports. They are processes
all the same, with a folder, an environment, streams and an end of their own. Those are started as a user's are whose
``PYTHONPATH`` a test has changed, unless only to have this folder on it, and those of commands that a test runs in a
process of their own.

    python forked_workers.py serve SOCKET           the one that forks, until its input ends
    python forked_workers.py run SOCKET FOLDER      stands for a worker: hands on its streams, and ends as that one does
"""

from __future__ import annotations

import array
import gc
import json
import os
import select
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_STREAMS = 3

_PRELOADED = ("onnx.runner", "coreml.runner", "executorch.runner")


@contextmanager
def forked() -> Iterator[None]:
    """Inside, this process's workers are forks; the one that forks them starts with the first."""
    import subprocess
    import tempfile
    from pathlib import Path

    import pytest

    from edgeqkv.pipeline import worker

    started, ordinary, path = list[subprocess.Popen[bytes]](), worker.python, os.environ.get("PYTHONPATH")
    with_this = os.pathsep.join([str(Path(__file__).parent), *([path] if path else [])])
    with tempfile.TemporaryDirectory(prefix="edgeqkv-tests-") as folder, pytest.MonkeyPatch.context() as patch:
        address = str(Path(folder) / "socket")

        def python(module: str, *arguments: str) -> list[str]:
            if os.environ.get("PYTHONPATH") not in (path, with_this):  # other code is wanted than what is imported
                return ordinary(module, *arguments)
            if not started:
                environment = worker._environment(Path(folder).parent) | {"PYTHONPATH": with_this}
                serve = [sys.executable, "-P", __file__, "serve", address]
                pipe = subprocess.PIPE
                with (Path(folder) / "log").open("w") as log:
                    started.append(
                        subprocess.Popen(serve, stdin=pipe, stdout=pipe, stderr=log, env=environment, cwd=folder)
                    )
                assert started[0].stdout
                started[0].stdout.readline()  # it listens
            return [sys.executable, "-I", "-S", __file__, "run", address, *arguments]

        patch.setattr(worker, "python", python)
        try:
            yield
        finally:
            for process in started:
                process.communicate()


def serve(address: str) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(address)
        listening.listen(16)
        print("listening", flush=True)  # noqa: T201
        _import()
        while True:
            ready, _, _ = select.select([listening, 0], [], [])
            if 0 in ready:
                return
            with suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
            connection, _ = listening.accept()
            if os.fork() == 0:
                listening.close()
                _look_after(connection)
            connection.close()


def _import() -> None:
    from importlib import import_module

    import_module("edgeqkv.pipeline.worker")
    for name in _PRELOADED:
        with suppress(ImportError):  # an extra that is not installed
            import_module(f"edgeqkv.backends.{name}")
    gc.collect()
    gc.freeze()


def _look_after(connection: socket.socket) -> None:
    """A fork's own fork is the worker, whose end is told to the one that stands for it."""
    request, streams = _receive(connection)
    worker = os.fork()
    if worker == 0:
        connection.close()
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
            os.close(stream)
        _work(**request)
    for stream in streams:
        os.close(stream)
    _, status = os.waitpid(worker, 0)
    with suppress(OSError):  # nobody stands for it any more
        connection.sendall(status.to_bytes(4, "little"))
    os._exit(0)


def _work(folder: str, environment: dict[str, str], argument: str) -> None:
    import tempfile
    import traceback
    from pathlib import Path

    from edgeqkv.pipeline import worker

    code = 1
    try:
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(environment)
        tempfile.tempdir = None  # it is in the environment
        worker._keep_to_ourselves()
        code = worker._work(Path(argument))
    except BaseException:
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError):
                stream.flush()
        os._exit(code)


def run(address: str, argument: str) -> None:
    """What is started in place of a worker."""
    request = {"folder": os.getcwd(), "environment": dict(os.environ), "argument": argument}  # noqa: PTH109
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(address)
        text = json.dumps(request).encode()
        streams = array.array("i", range(_STREAMS))
        connection.sendmsg(
            [len(text).to_bytes(4, "little")], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, streams.tobytes())]
        )
        connection.sendall(text)
        told = connection.recv(4, socket.MSG_WAITALL)
    status = int.from_bytes(told, "little") if len(told) == 4 else 1 << 8
    code = os.waitstatus_to_exitcode(status)
    if code < 0:  # of a signal, of which this one ends as well
        if -code != signal.SIGKILL:
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


def _receive(connection: socket.socket) -> tuple[dict[str, object], list[int]]:
    streams = array.array("i")
    size, sent, _, _ = connection.recvmsg(4, socket.CMSG_SPACE(_STREAMS * streams.itemsize), socket.MSG_WAITALL)
    for level, kind, data in sent:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            streams.frombytes(data)
    text = connection.recv(int.from_bytes(size, "little"), socket.MSG_WAITALL)
    return json.loads(text), list(streams)


if __name__ == "__main__":
    {"serve": serve, "run": run}[sys.argv[1]](*sys.argv[2:])
