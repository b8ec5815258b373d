"""All that is used of ExecuTorch here without its promise that it stays as it is.

Tried with executorch 1.5.1:

``EdgeCompileConfig(_check_ir_validity)``
    For: the checks do not know what Arm's backend keeps whole. When it is gone: the checks say what they do not know.
"""

from __future__ import annotations

import inspect
from typing import Any

__all__ = ["edge_config"]


def edge_config() -> Any:
    """How programs are made ready for Arm's backend: without the checks that know too little."""
    from executorch import exir

    known = inspect.signature(exir.EdgeCompileConfig).parameters
    options = {"_check_ir_validity": False}
    return exir.EdgeCompileConfig(**{name: value for name, value in options.items() if name in known})
