"""Having the graphs compiled, in a process of its own (`edgeqkv.backends.hexagon.compiler`)."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from edgeqkv.backends.compiling import compiled_apart
from edgeqkv.backends.hexagon.qnn import PACKAGE
from edgeqkv.bundle.manifest import Artifact
from edgeqkv.extras import installed_version
from edgeqkv.progress import Progress

__all__ = ["compiled"]

_MODULE: Final = "edgeqkv.backends.hexagon.compiler"


def compiled(directory: Path, artifact: Artifact, soc: str, on_progress: Progress) -> Artifact:
    """The artifact with what was compiled of its graphs, which lies beside them in ``directory``.

    Where the compiler is not installed: the artifact with the command that compiles it elsewhere.

    Raises:
        UnsupportedError: the compiler refuses a graph, or leaves an operation to the CPU; the message names it.
        VerificationFailed: what was compiled does not compute what the graphs do.
    """
    if installed_version(PACKAGE) is None:
        command = f"python -m {_MODULE} DIR --soc {soc} --out FOLDER"
        details = {**artifact.details, "compile_with": f"pip install 'edgeqkv[hexagon]' && {command}"}
        return artifact.model_copy(update={"details": details})
    on_progress(f"compiling for Hexagon {soc} and comparing with its simulation", None)
    return compiled_apart(_MODULE, "Qualcomm's compiler", directory, artifact, "--soc", soc)
