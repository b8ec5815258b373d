"""A chip's compiler in a process of its own, which may crash or take gigabytes without harm to the export.

A target that has one gives a module that is run as ``python -m MODULE DIR … --job FOLDER``. In the folder is the
artifact whose graphs it compiles; what it made of them, or the error, is written there too (`answer`).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from edgeqkv import errors
from edgeqkv.bundle.bundle import Bundle
from edgeqkv.bundle.manifest import Artifact, Compiled
from edgeqkv.children import end_with_parent, running
from edgeqkv.disk.workplace import scratch
from edgeqkv.errors import EdgeQKVError, InputError, UnsupportedError
from edgeqkv.process import environment, python

__all__ = ["answer", "artifact_of", "compiled_apart"]

_ARTIFACT: Final = "artifact.json"
_RESULT: Final = "result.json"


def compiled_apart(module: str, title: str, directory: Path, artifact: Artifact, *options: str) -> Artifact:
    """The artifact with what was compiled of its graphs, which lies beside them.

    Args:
        module: of the compiler's process.
        title: the compiler's name for people.
        directory: where the graphs are.
        artifact: what they are.
        options: of the module.

    Raises:
        UnsupportedError: the process ended without an answer.
        EdgeQKVError: the error that was its answer, of its own class.
    """
    with scratch() as folder, (folder / "log").open("w+", encoding="utf-8", errors="replace") as log:
        (folder / _ARTIFACT).write_text(artifact.model_dump_json(), encoding="utf-8")
        command = python(module, str(directory.resolve()), *options, "--job", str(folder))
        with running(command, environment(TMPDIR=str(folder)), log, folder) as process:
            assert process.stdout
            for _ in process.stdout:
                """What the compiler says besides, which would else fill the pipe."""
        result = folder / _RESULT
        if not result.exists():
            log.seek(0)
            said = log.read().strip().splitlines()[-1:] or ["and said nothing"]
            raise UnsupportedError(f"{title} ended with code {process.returncode}: {said[0]}")
        found = json.loads(result.read_text(encoding="utf-8"))
    if "error" in found:
        raise getattr(errors, found["error"]["type"], EdgeQKVError)(found["error"]["message"])
    return artifact.model_copy(update={"compiled": Compiled.model_validate(found)})


def artifact_of(target: str, directory: Path, job: Path | None) -> Artifact:
    """What the process is to compile: the job's artifact, or without one that of the bundle in ``directory``.

    Raises:
        BundleError: that is no bundle.
        InputError: it holds no such target.
    """
    if job is not None:
        return Artifact.model_validate_json((job / _ARTIFACT).read_text(encoding="utf-8"))
    targets = Bundle(directory).manifest.targets
    if target not in targets:
        raise InputError(f"{directory} holds {', '.join(targets)}, and no {target} target")
    return targets[target].artifact


def answer(job: Path | None, compile_: Callable[[], Compiled]) -> int:
    """What the process does: compile, and leave the result to whoever gave the job, or print it; its exit code."""
    if job is not None:
        end_with_parent()
    try:
        result = compile_().model_dump(mode="json")
    except EdgeQKVError as error:
        result = {"error": {"type": type(error).__name__, "message": str(error)}}
    if job is not None:
        (job / _RESULT).write_text(json.dumps(result), encoding="utf-8")
        return 0
    sys.stdout.write(json.dumps(result, indent=2) + "\n")
    return 2 if "error" in result else 0
