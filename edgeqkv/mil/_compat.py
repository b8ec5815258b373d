"""The one thing that is used of coremltools without its promise that it stays as it is.

``coremltools/proto``, the folder, and that its modules need nothing but each other
    For: the format's messages without the import of coremltools, which takes seconds and a quarter of a gigabyte.
    Tried with: coremltools 9.0. When it is gone: coremltools is imported, and the messages are had from it.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from typing import Any, Final

__all__ = ["PROTO", "messages_alone"]

PROTO: Final = "edgeqkv_coremltools_proto"
"""The package, of this name, that the messages are modules of when coremltools is not imported."""


def messages_alone(module: str) -> Any | None:
    """A module of ``coremltools.proto`` without coremltools; None where that cannot be done.

    Raises:
        ModuleNotFoundError: coremltools is not installed.
    """
    if PROTO not in sys.modules:
        found = importlib.util.find_spec("coremltools")
        if found is None:
            raise ModuleNotFoundError("No module named 'coremltools'", name="coremltools")
        folder = Path(found.origin or "").parent / "proto"
        spec = importlib.util.spec_from_file_location(
            PROTO, folder / "__init__.py", submodule_search_locations=[str(folder)]
        )
        assert spec is not None
        # A package to find its modules in; running it would import them all.
        sys.modules[PROTO] = importlib.util.module_from_spec(spec)
    try:
        return importlib.import_module(f"{PROTO}.{module}")
    except ImportError:
        return None
