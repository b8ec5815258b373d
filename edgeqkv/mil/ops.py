"""The MIL operations that can be evaluated, by type: one pure function of torch tensors each.

Semantics are those of the MIL opsets iOS15 to iOS18 as coremltools documents them; ``mil_table`` says how
the functions are called. States and constants are not operations of the table: the evaluator keeps them.
"""

from __future__ import annotations

from edgeqkv.mil.ops_constexpr import CONSTEXPR
from edgeqkv.mil.ops_linear import LINEAR
from edgeqkv.mil.ops_math import MATH
from edgeqkv.mil.ops_shape import MOVES
from edgeqkv.mil.table import OpTable

__all__ = ["MOVING", "OPS"]

OPS = OpTable({**MATH, **LINEAR, **MOVES, **CONSTEXPR})
"""Every operation, by MIL type."""

MOVING = frozenset(MOVES) - {"scatter", "scatter_along_axis"}
"""The types that only move values, and so cannot make any larger."""
