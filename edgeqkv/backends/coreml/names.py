"""Names in a package that more than one room knows; light, so that running one imports nothing that builds one."""

from __future__ import annotations

from typing import Final

__all__ = ["CAUSAL_MASK", "PACKAGE"]

PACKAGE: Final = "model.mlpackage"

CAUSAL_MASK: Final = "causal_mask"
"""What the names of the masks begin with."""
