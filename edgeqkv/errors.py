"""Every error that edgeqkv raises on purpose, as one family.

    EdgeQKVError                 the base: catch this to catch all of them
    ├── CheckpointError          the file is not a model that edgeqkv can read
    ├── VariantError             a variant's name is unknown, or a claim about one is false
    ├── UnsupportedError         a target cannot do what was asked; the message says what it can
    ├── BundleError              a bundle on disk is missing, damaged or in the way
    ├── ContextFull              more tokens than the state has room for; the state is untouched
    ├── InputError               tokens, prompts or settings that make no sense for this model
    ├── MissingExtra             an optional package is absent; the message is the pip command
    └── VerificationFailed       the exported model does not compute what the original does

A message says what was wrong, with which value, and what to do about it. The command line prints it
without a traceback and exits with `exit_code`.
"""

from __future__ import annotations

__all__ = [
    "BundleError",
    "CheckpointError",
    "ContextFull",
    "EdgeQKVError",
    "InputError",
    "MissingExtra",
    "UnsupportedError",
    "VariantError",
    "VerificationFailed",
]


class EdgeQKVError(Exception):
    """Base of all edgeqkv errors."""

    exit_code = 2


class CheckpointError(EdgeQKVError):
    """The file is not a checkpoint that edgeqkv can read, or its contents contradict each other."""


class VariantError(EdgeQKVError):
    """A variant's name is unknown, or the checkpoint is another variant than was claimed."""


class UnsupportedError(EdgeQKVError):
    """The target cannot do what was asked for."""


class BundleError(EdgeQKVError):
    """A bundle is missing, damaged, written by another format version, or in the way of a new one."""


class ContextFull(EdgeQKVError):
    """More tokens were fed than the state has room for. The state is as it was before the call."""


class InputError(EdgeQKVError):
    """Tokens, a prompt or a setting that cannot be used with this model."""


class MissingExtra(EdgeQKVError):
    """A package that this command needs is not installed."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs the package '{package}', which is not installed. "
            f"Add it with: pip install 'edgeqkv[{extra}]'"
        )


class VerificationFailed(EdgeQKVError):
    """The exported model's numbers differ from the original's by more than the tolerance."""

    exit_code = 1
