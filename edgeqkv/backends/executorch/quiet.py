"""Keeping what third parties say about themselves off the user's terminal, as narrowly as possible."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr

from edgeqkv.backends.executorch._compat import disabled_level

__all__ = ["native_stderr_captured", "third_party_notices_silenced"]

# What is said of buffers is meant: the state starts out meaningless and is written before it is read.
_BUFFER_NOTICE = "Mutation on a buffer in the model is detected"


@contextmanager
def third_party_notices_silenced() -> Iterator[None]:
    """Inside, deprecations are dropped, and errors alone are logged.

    ExecuTorch and torch warn of what ExecuTorch and torch call, while they are imported and at every export. No
    user of edgeqkv can do anything about it. Importing ExecuTorch's XNNPACK partitioner also configures the root
    logger; that is undone.
    """
    root = logging.getLogger()
    handlers, disabled = root.handlers[:], disabled_level()
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            for category in (DeprecationWarning, FutureWarning):
                warnings.simplefilter("ignore", category)
            warnings.filterwarnings("ignore", message=_BUFFER_NOTICE)
            yield
    finally:
        logging.disable(disabled)
        root.handlers[:] = handlers


@contextmanager
def native_stderr_captured() -> Iterator[Callable[[], str]]:
    """Inside, what is written to the standard error stream goes to a file; yields a reader of it.

    The runtime logs there, partly past Python and whatever its logging is set to: how it probes the processor, and
    why a file could not be loaded.
    """
    sys.stderr.flush()
    with tempfile.TemporaryFile("w+", errors="replace") as log:
        saved = os.dup(2)
        os.dup2(log.fileno(), 2)

        def written() -> str:
            log.seek(0)
            return log.read().strip()

        try:
            with redirect_stderr(log):
                yield written
        finally:
            os.dup2(saved, 2)
            os.close(saved)
