"""The parts of coremltools that build programs, imported quietly; named as its own documentation names them."""

from __future__ import annotations

from typing import Any

from edgeqkv.backends.coreml._compat import import_coremltools

__all__ = ["Function", "Program", "Var", "ct", "mb", "types"]

ct = import_coremltools("exporting to Core ML")
mb = ct.converters.mil.Builder
types = ct.converters.mil.mil.types
Function = ct.converters.mil.mil.Function
Program = ct.converters.mil.mil.Program

Var = Any
"""A value of the program that is being built. coremltools carries no types."""
