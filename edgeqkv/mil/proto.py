"""The Core ML format's own messages: the protobuf modules that come with coremltools."""

from __future__ import annotations

import importlib
import sys
import warnings
from typing import Any

from edgeqkv.mil._compat import messages_alone

__all__ = ["messages"]


def messages(module: str) -> Any:
    """A module of ``coremltools.proto``, such as ``Model_pb2``.

    coremltools itself, with every framework that it finds, takes seconds and a quarter of a gigabyte to import. The
    messages need nothing of it, so that they are loaded from its folder alone where that can be done, unless
    coremltools is there already.

    Raises:
        ModuleNotFoundError: coremltools is not installed.
    """
    if sys.modules.get("coremltools") is None and (alone := messages_alone(module)) is not None:
        return alone
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's version, and of Apple's runtime being absent
        return importlib.import_module(f"coremltools.proto.{module}")
