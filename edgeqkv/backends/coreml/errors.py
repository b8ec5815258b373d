"""What `edgeqkv.mil`, which knows nothing of edgeqkv, raises, as edgeqkv's own errors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from edgeqkv import mil
from edgeqkv.errors import BundleError, EdgeQKVError, InputError, UnsupportedError
from edgeqkv.extras import needed_for

__all__ = ["mil_errors"]

_OWN: Final[dict[type[mil.MilError], type[EdgeQKVError]]] = {
    mil.PackageError: BundleError,
    mil.InputError: InputError,
    mil.UnsupportedOperation: UnsupportedError,
}


@contextmanager
def mil_errors() -> Iterator[None]:
    """Inside, an error of `edgeqkv.mil` becomes the one of edgeqkv that means the same, with its message.

    Raises:
        BundleError: a package is missing or damaged.
        InputError: what was asked for or passed does not fit the program.
        UnsupportedError: there is something in the package that is not known here.
        MissingExtra: coremltools is not installed.
    """
    try:
        with needed_for("Reading a Core ML package"):
            yield
    except mil.MilError as error:
        raise _OWN.get(type(error), BundleError)(str(error)) from error
