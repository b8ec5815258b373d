"""coremltools without its noise, and all that is used of it without its promise that it stays as it is.

Its import warns about torch's version and about Apple's runtime being absent (always, off macOS). None of that
concerns a program that is only written or evaluated. And it imports whatever frameworks it could convert from, which
edgeqkv does not ask it to: they are kept from it.

What is used, tried with coremltools 9.0:

imports of executorch, sklearn and torchao, made to fail while coremltools is imported
    For: three of four seconds, and 170 MB. When it cannot do without one of them: it is imported with all of them.
``converters.mil.mil.passes.pass_pipeline.tqdm``, replaced while a program is converted
    For: no progress bars, for which there is no switch. When it is gone: bars are drawn, or whatever comes then.
messages of the native libraries that write packages, recognized
    For: a full disk is the user's error and not a fault of ours. When they change: a traceback instead of one line.
``Operation.weight_id``, set on constants
    For: the functions of a package store a weight once. When it is gone: each function stores its own.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import sys
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, Final

from edgeqkv.errors import MissingExtra

__all__ = ["import_coremltools", "quietly", "store_once", "without_progress_bars", "writing_errors"]

_WRITING: Final = ("[MIL FileWriter]", "[MIL StorageWriter]", "filesystem error", "Failed to open", "Could not open")
_NOISY_LOGGER = "coremltools"

# Who wants coremltools to convert from them imports it before edgeqkv does.
_NOT_CONVERTED_FROM: Final = ("executorch", "sklearn", "torchao")


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Hides what coremltools warns of while it is imported or converts a program in the block."""
    logger = logging.getLogger(_NOISY_LOGGER)
    level = logger.level
    try:
        logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            # A conversion leaves its directory of weights to be removed with the object that stands for it.
            warnings.filterwarnings("ignore", "Implicitly cleaning up", ResourceWarning)
            yield
    finally:
        logger.setLevel(level)


@contextlib.contextmanager
def _hidden(names: Sequence[str]) -> Iterator[None]:
    """Has imports of these packages fail in the block, as if they were not installed."""
    imported = {name: sys.modules[name] for name in names if name in sys.modules}
    try:
        sys.modules.update(dict.fromkeys(names))  # type: ignore[arg-type]  # None: not to be found
        yield
    finally:
        for name in names:
            del sys.modules[name]
        sys.modules.update(imported)


def import_coremltools(purpose: str) -> Any:
    """The module ``coremltools``, imported quietly (the first import takes a second).

    Args:
        purpose: what needs it, as the start of a sentence: "Reading a Core ML package".

    Raises:
        MissingExtra: coremltools is not installed.
    """
    try:
        with quietly():
            try:
                with _hidden(_NOT_CONVERTED_FROM):
                    import coremltools
            except ModuleNotFoundError as error:
                if error.name not in _NOT_CONVERTED_FROM:
                    raise
                import coremltools
    except ModuleNotFoundError as error:
        if error.name != "coremltools":
            raise
        raise MissingExtra("coremltools", "coreml", purpose) from error
    return coremltools


@contextlib.contextmanager
def without_progress_bars(coremltools: Any) -> Iterator[None]:
    """Has coremltools convert programs in the block without a progress bar for every pipeline of passes."""
    try:
        passes = coremltools.converters.mil.mil.passes.pass_pipeline
        drawn = passes.tqdm
    except AttributeError:
        yield
        return
    passes.tqdm = lambda items, **_: items
    try:
        yield
    finally:
        passes.tqdm = drawn


@contextlib.contextmanager
def writing_errors() -> Iterator[None]:
    """Has what the disk refuses in the block be an `OSError`, as everywhere else."""
    try:
        yield
    except RuntimeError as error:
        if not any(sign in str(error) for sign in _WRITING):
            raise
        raise OSError(errno.EIO, f"coremltools could not write its package ({error})") from error


def store_once(constant: Any, key: str) -> None:
    """Has constants with the same key, in whatever functions of a program, be one in its file."""
    if hasattr(constant.op, "weight_id"):
        constant.op.weight_id = key
