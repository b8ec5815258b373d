"""All that is used of ExecuTorch here without its promise that it stays as it is.

Tried with executorch 1.5.1:

``EthosUCompileSpec._to_list``
    For: a program that says what it was compiled for, as Arm's own exporter's does. The driver on the chip reads only
    what Vela wrote. When it is gone: the program does not say it.
"""

from __future__ import annotations

from typing import Any

__all__ = ["told"]


def told(spec: Any) -> list[Any]:
    """What a program says of how it was compiled."""
    listed = getattr(spec, "_to_list", None)
    return [] if listed is None else list(listed())
