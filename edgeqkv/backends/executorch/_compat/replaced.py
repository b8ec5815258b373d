"""Another package's attribute, replaced for a while."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["replaced"]


@contextmanager
def replaced(owner: Any, name: str, change: Callable[[Any], Any]) -> Iterator[None]:
    """Inside, an attribute is what ``change`` makes of it; one that is not there stays away."""
    original = getattr(owner, name, None)
    if original is None:
        yield
        return
    kept = vars(owner).get(name, original)  # of a static method, what makes it one
    setattr(owner, name, change(original))
    try:
        yield
    finally:
        setattr(owner, name, kept)
