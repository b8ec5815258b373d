"""What any Core ML package says of itself."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from edgeqkv.backends.coreml.errors import mil_errors
from edgeqkv.backends.inspection import FileFacts, FunctionFacts
from edgeqkv.mil import Package
from edgeqkv.mil.package import Function

__all__ = ["inspect"]

_HIDDEN = ("const",)  # what is no operation, though it is written as one


@mil_errors()
def inspect(path: Path) -> FileFacts:
    """Read a package's program.

    Raises:
        BundleError: it is missing or damaged.
        UnsupportedError: it is no ML Program.
    """
    package = Package(path)
    files = [file for file in path.rglob("*") if file.is_file() and not file.is_symlink()]
    metadata = dict(package.metadata)
    made_by = metadata.pop("author", "")
    return FileFacts(
        path=path,
        title="Core ML package",
        bytes=sum(file.stat().st_size for file in files),
        functions=tuple(map(_function, package.functions.values())),
        made_by=made_by,
        needs=tuple(sorted({each.opset for each in package.functions.values()})),
        weights={file.name: file.stat().st_size for file in files if file.suffix == ".bin"},
        properties=metadata,
    )


def _function(function: Function) -> FunctionFacts:
    types = Counter(operation.type for operation in function.operations)
    return FunctionFacts(
        name=function.name,
        inputs={name: str(spec) for name, spec in function.inputs.items()},
        outputs={name: str(spec) for name, spec in function.outputs.items()},
        states={name: str(spec) for name, spec in function.states.items()},
        operators={kind: count for kind, count in types.most_common() if kind not in _HIDDEN},
    )
