"""Having the graphs compiled, in a process of its own (`edgeqkv.backends.ethos.compiler`)."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from edgeqkv.backends.compiling import compiled_apart
from edgeqkv.bundle.manifest import Artifact
from edgeqkv.extras import installed_version
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
    return compiled_apart(_MODULE, "Vela", directory, artifact)
