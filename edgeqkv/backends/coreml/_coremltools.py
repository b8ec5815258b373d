"""Imports coremltools without the noise it makes on machines it cannot run models on.

Its import warns about torch's version and about Apple's runtime being absent (always, off macOS). None of that
concerns a program that is only written or evaluated. And it imports whatever frameworks it could convert from, which
edgeqkv does not ask it to: they are kept from it.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import logging
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from edgeqkv.errors import MissingExtra

__all__ = ["import_coremltools", "import_proto", "quietly"]

_PROTO = "edgeqkv_coremltools_proto"

_NOISY_LOGGER = "coremltools"

# Three of four seconds, and 170 MB. Who wants coremltools to convert from them imports it before edgeqkv does.
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
        with quietly(), _hidden(_NOT_CONVERTED_FROM):
            import coremltools
    except ModuleNotFoundError as error:
        if error.name != "coremltools":
            raise
        raise MissingExtra("coremltools", "coreml", purpose) from error
    return coremltools


def import_proto(module: str, purpose: str) -> Any:
    """A module of ``coremltools.proto``, such as ``Model_pb2``: the Core ML format's own messages.

    coremltools itself, with every framework that it finds, takes seconds and a quarter of a gigabyte to import. These
    modules need nothing of it, so that they are loaded from its folder alone, unless it is there already.

    Raises:
        MissingExtra: coremltools is not installed.
    """
    if sys.modules.get("coremltools") is not None:
        return importlib.import_module(f"coremltools.proto.{module}")
    if _PROTO not in sys.modules:
        found = importlib.util.find_spec("coremltools")
        if found is None or found.origin is None:
            raise MissingExtra("coremltools", "coreml", purpose)
        folder = Path(found.origin).parent / "proto"
        spec = importlib.util.spec_from_file_location(
            _PROTO, folder / "__init__.py", submodule_search_locations=[str(folder)]
        )
        assert spec is not None
        # A package to find its modules in; running it would import them all.
        sys.modules[_PROTO] = importlib.util.module_from_spec(spec)
    return importlib.import_module(f"{_PROTO}.{module}")
