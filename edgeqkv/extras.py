"""Optional packages: turning a failed import into the pip command that mends it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from edgeqkv.errors import MissingExtra

__all__ = ["EXTRAS", "installed_version", "needed_for"]

EXTRAS: Final = {
    "torch": "torch",
    "safetensors": "torch",
    "onnx": "onnx",
    "onnx_ir": "onnx",
    "onnxruntime": "onnx",
    "executorch": "executorch",
    "torchao": "executorch",
    "coremltools": "coreml",
    "onnxruntime_qnn": "hexagon",
    "ethosu": "ethos-u",
    "tosa_reference_model": "ethos-u",
    "tosa_serializer": "ethos-u",
    "tosa": "ethos-u",
    "PIL": "images",
    "transformers": "huggingface",
    "huggingface_hub": "huggingface",
    "optimum": "huggingface",
    "accelerate": "distill",
}
"""Importable name → the extra of edgeqkv that installs it."""


@contextmanager
def needed_for(purpose: str) -> Iterator[None]:
    """Inside, a missing optional package raises `MissingExtra`, which names the command that adds it.

    What is imported makes hundreds of thousands of objects that stay: among them Python looks less often for garbage,
    which would take a fifth of the time.
    """
    from edgeqkv.memory import garbage_kept  # which imports ctypes, and ``--help`` does without

    try:
        with garbage_kept():
            yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in EXTRAS:
            raise
        raise MissingExtra(package, EXTRAS[package], purpose) from error


def installed_version(package: str) -> str | None:
    """The installed version of a distribution, or None."""
    from importlib import metadata  # which reads mail headers, and takes a third of the time of ``--help``

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
