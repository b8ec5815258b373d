"""What reading or running a package raises on purpose: one family, of which a message says what was wrong."""

from __future__ import annotations

__all__ = ["InputError", "MilError", "PackageError", "UnsupportedOperation"]


class MilError(Exception):
    """The base: catch this to catch all of them."""


class PackageError(MilError):
    """A package is missing, incomplete or damaged, or its program contradicts itself."""


class InputError(MilError):
    """A function, an input, a state or a precision that was asked for does not fit the program."""


class UnsupportedOperation(MilError):
    """The package is whole, but has something in it that is not known here; the message names it."""
