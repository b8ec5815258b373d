"""What holds in every process of edgeqkv: no code from the current folder, and no telemetry. And how it starts others.

The current folder may be a bundle that somebody sent, with a ``numpy.py`` in it, so that it is no place to take code
from. Importing this module does what has to be done before any other import, and so it is the first of the package,
and imports nothing but what Python has in memory when it starts.
"""

import os
import sys
from itertools import pairwise

__all__ = ["TELEMETRY", "environment", "python"]

TELEMETRY = {"ORT_DISABLE_TELEMETRY": "1"}
"""What keeps libraries from telling others that they are used.

Unless it is set before ONNX Runtime 1.32 is imported, that writes a device's id and a database of events to
``~/.cache/Microsoft/DeveloperTools``, and sends them to ``mobile.events.data.microsoft.com``.
"""


def python(module: str, *arguments: str) -> list[str]:
    """The command that runs a module in a process of its own; it is to be given an `environment`."""
    return [sys.executable, "-P", "-m", module, *arguments]


def environment(**more: str) -> dict[str, str]:
    """The environment of a process that is started: this one's, with ``more``, and without paths to the current folder.

    An empty entry of ``PYTHONPATH``, as ``PYTHONPATH=$PYTHONPATH:/somewhere`` leaves one, means the current folder.
    """
    entries = [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if not _is_here(entry)]
    path = {"PYTHONPATH": os.pathsep.join(map(os.path.abspath, entries))} if entries else {}
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return {**kept, **path, "PYTHONSAFEPATH": "1", **TELEMETRY, **more}


def _is_here(entry: str) -> bool:
    """Whether an entry of a path for modules is the current folder, and edgeqkv itself does not lie in it."""
    try:
        here = os.path.realpath(os.getcwd())  # noqa: PTH109  pathlib would be imported from where this looks
    except OSError:  # the current folder was deleted
        return entry in ("", os.curdir)
    own = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))  # noqa: PTH120
    return here != own and os.path.realpath(entry or os.curdir) == here


def _is_program() -> bool:
    """Whether edgeqkv is what was started (``edgeqkv``, ``python -m edgeqkv``), and not a library of it."""
    if sys.argv[:1] == ["-m"]:  # so it is while Python looks for the module to run
        return any(name == "edgeqkv" and flag[0] == "-" and flag[-1] == "m" for flag, name in pairwise(sys.orig_argv))
    return os.path.basename(sys.argv[0] if sys.argv else "") in ("edgeqkv", "edgeqkv.exe")  # noqa: PTH119


os.environ.update(TELEMETRY)
if _is_program():
    sys.path[:] = [entry for entry in sys.path if not _is_here(entry)]
