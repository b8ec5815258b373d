"""A program that was built, as a package on disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from edgeqkv.backends.coreml._compat import quietly, without_progress_bars, writing_errors
from edgeqkv.backends.coreml.mil import ct

__all__ = ["save"]

# The graph is built as it is to be, and what is saved is what was built: none of coremltools' rewriting.
_PASSES: Final = ["common::dead_code_elimination", "common::dedup_op_and_var_names"]


def save(program: Any, path: Path, describe: Callable[[Any], None]) -> None:
    """Write a program; ``describe`` fills in what its specification says about it, in place."""
    with quietly(), without_progress_bars(ct), writing_errors():
        converted = ct.convert(
            program,
            minimum_deployment_target=ct.target.iOS18,
            # The program is fp16 as it stands; this only spares the passes that would make it so.
            compute_precision=ct.precision.FLOAT32,
            pass_pipeline=ct.PassPipeline(_PASSES, "edgeqkv"),
            package_dir=str(path),
            skip_model_load=True,
        )
    spec = converted.get_spec()
    describe(spec)
    next(path.rglob("*.mlmodel")).write_bytes(spec.SerializeToString())
    for item in path.rglob("*"):  # coremltools moves private temporary files into its packages
        item.chmod(0o755 if item.is_dir() else 0o644)
