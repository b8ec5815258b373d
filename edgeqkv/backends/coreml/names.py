"""What more than one room knows of a package; light, so that running one imports nothing that builds one."""

from __future__ import annotations

from typing import Final

__all__ = ["CAUSAL_MASK", "HIGHEST_SCORE", "PACKAGE"]

PACKAGE: Final = "model.mlpackage"

CAUSAL_MASK: Final = "causal_mask"
"""What the names of the masks begin with."""

HIGHEST_SCORE: Final = 21800.0
"""The magnitude up to which scores can be masked in fp16 (`edgeqkv.backends.coreml.signatures`)."""
