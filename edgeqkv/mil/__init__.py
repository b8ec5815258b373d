"""Reads Core ML packages (``.mlpackage`` holding an ML Program) and runs them on any machine, whoever made them.

A library of its own, which knows nothing of edgeqkv: its errors are those of `edgeqkv.mil.errors`. It takes NumPy,
torch, and of coremltools the format's messages; a package is read without torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from edgeqkv.mil.errors import InputError, MilError, PackageError, UnsupportedOperation
from edgeqkv.mil.package import Package

if TYPE_CHECKING:
    from edgeqkv.mil.evaluator import Evaluator, Peak, Precision, State

__all__ = [
    "Evaluator",
    "InputError",
    "MilError",
    "Package",
    "PackageError",
    "Peak",
    "Precision",
    "State",
    "UnsupportedOperation",
]


def __getattr__(name: str) -> Any:
    """What runs programs, imported with torch when it is first asked for."""
    if name in __all__:
        return getattr(importlib.import_module("edgeqkv.mil.evaluator"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
