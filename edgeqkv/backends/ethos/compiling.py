"""Having the graphs compiled, in a process of its own (`edgeqkv.backends.ethos.compiler`)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from edgeqkv import errors
from edgeqkv.bundle.manifest import Artifact, Compiled
from edgeqkv.children import running
from edgeqkv.disk.workplace import scratch
from edgeqkv.errors import EdgeQKVError, UnsupportedError
from edgeqkv.extras import installed_version
from edgeqkv.process import environment, python
from edgeqkv.progress import Progress

__all__ = ["compiled"]

_MODULE: Final = "edgeqkv.backends.ethos.compiler"
_PACKAGES: Final = ("executorch", "ethos-u-vela")


def compiled(directory: Path, artifact: Artifact, on_progress: Progress) -> Artifact:
    """The artifact with what was compiled of its graphs, which lies beside them in ``directory``.

    Where the compiler is not installed: the artifact with the command that compiles it elsewhere.

    Raises:
        UnsupportedError: Vela refuses a graph, or leaves an operation to the CPU; the message names it.
    """
    if not all(map(installed_version, _PACKAGES)):
        command = f"pip install 'edgeqkv[ethos-u]' && python -m {_MODULE} DIR --out FOLDER"
        return artifact.model_copy(update={"details": {**artifact.details, "compile_with": command}})
    on_progress(f"compiling for Ethos-U85 with {artifact.details['soc']} MACs", None)
    with scratch() as folder, (folder / "log").open("w+", encoding="utf-8", errors="replace") as log:
        (folder / "artifact.json").write_text(artifact.model_dump_json(), encoding="utf-8")
        command_line = python(_MODULE, str(directory.resolve()), "--job", str(folder))
        with running(command_line, environment(TMPDIR=str(folder)), log, folder) as process:
            assert process.stdout
            for _ in process.stdout:
                """What the compiler says besides, which would else fill the pipe."""
        result = folder / "result.json"
        if not result.exists():
            log.seek(0)
            said = log.read().strip().splitlines()[-1:] or ["and said nothing"]
            raise UnsupportedError(f"Vela ended with code {process.returncode}: {said[0]}")
        found = json.loads(result.read_text(encoding="utf-8"))
    if "error" in found:
        raise getattr(errors, found["error"]["type"], EdgeQKVError)(found["error"]["message"])
    return artifact.model_copy(update={"compiled": Compiled.model_validate(found)})
