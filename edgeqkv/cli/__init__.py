"""The command line."""

from edgeqkv.cli.app import app, main

__all__ = ["app", "main"]
