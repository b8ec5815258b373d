"""Imports coremltools without the noise it makes on machines it cannot run models on.

Its import warns about torch and scikit-learn versions, about Apple's runtime being absent (always, off
macOS), and pulls in whatever of torchao and executorch is installed, which warn in turn. None of that
concerns a program that is only written or evaluated.
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from typing import Any

from edgeqkv.errors import MissingExtra

__all__ = ["import_coremltools", "quietly"]

_NOISY_LOGGERS = ("coremltools", "torchao", "torch.utils._pytree")


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Hides what coremltools warns of while it is imported or converts a program in the block."""
    loggers = [logging.getLogger(name) for name in _NOISY_LOGGERS]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            # executorch reads its resources, and torchao its kernels, through deprecated functions.
            warnings.simplefilter("ignore", DeprecationWarning)
            # A conversion leaves its directory of weights to be removed with the object that stands for it.
            warnings.filterwarnings("ignore", "Implicitly cleaning up", ResourceWarning)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def import_coremltools(purpose: str) -> Any:
    """The module ``coremltools``, imported quietly (the first import takes seconds).

    Args:
        purpose: what needs it, as the start of a sentence: "Reading a Core ML package".

    Raises:
        MissingExtra: coremltools is not installed.
    """
    try:
        with quietly():
            import coremltools
    except ModuleNotFoundError as error:
        if error.name != "coremltools":
            raise
        raise MissingExtra("coremltools", "coreml", purpose) from error
    return coremltools
