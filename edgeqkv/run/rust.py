"""Calling a library written in Rust, whose panics are no `Exception` and are printed before anybody can catch them."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

from edgeqkv.reading import parsed

__all__ = ["panics_caught"]

_STDERR = 2
_redirecting = (
    Lock()
)  # a process has one standard error: of two threads, the second would keep what the first put there


@contextmanager
def panics_caught(complaint: str, remedy: str = "") -> Iterator[None]:
    """As `parsed`; and nothing reaches standard error meanwhile, where a panic writes its stack.

    Raises:
        InputError: whatever was raised inside.
    """
    with parsed(complaint, remedy), _silent_stderr():
        yield


@contextmanager
def _silent_stderr() -> Iterator[None]:
    with _redirecting:
        try:
            kept = os.dup(_STDERR)
        except OSError:  # closed: there is nothing to be silenced
            yield
            return
        try:
            if sys.stderr is not None:
                sys.stderr.flush()
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, _STDERR)
            os.close(nowhere)
            yield
        finally:
            os.dup2(kept, _STDERR)
            os.close(kept)
