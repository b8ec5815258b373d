"""What an ONNX file says of itself, read without its weights: its ends, its token table, and the files it refers to."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import onnx

from edgeqkv.backends.held import HeldGraph, HeldTensor
from edgeqkv.bundle.files import is_plain
from edgeqkv.errors import BundleError

__all__ = ["GraphFile", "external_files"]

_DTYPES: Final = {
    onnx.TensorProto.FLOAT: "fp32",
    onnx.TensorProto.FLOAT16: "fp16",
    onnx.TensorProto.INT8: "int8",
    onnx.TensorProto.UINT8: "uint8",
    onnx.TensorProto.INT32: "int32",
    onnx.TensorProto.INT64: "int64",
    onnx.TensorProto.BOOL: "bool",
}

_GATHERS: Final = ("Gather", "GatherBlockQuantized")


class GraphFile:
    """An ONNX file on disk.

    Raises:
        BundleError: it is missing or damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._model = onnx.load(path, load_external_data=False)
        except OSError as error:
            raise BundleError(f"{path} cannot be read ({error.strerror}); export it again") from error
        except Exception as error:  # protobuf's DecodeError differs between its implementations
            raise BundleError(f"{path} is damaged: it is no ONNX model ({error}); export it again") from error

    def held(self, tokens: str | None) -> HeldGraph:
        """Its graph; ``tokens`` is the input that takes token ids."""
        graph = self._model.graph
        rows = None if tokens is None else self._rows(tokens)
        return HeldGraph(_tensors(graph.input), _tensors(graph.output), rows=rows)

    def check_external(self, allowed: str | None) -> None:
        """See that it refers to no other file than the one of weights, which lies beside it.

        Raises:
            BundleError: it does, or that one is no plain file.
        """
        for name in sorted(set(external_files(self._model))):
            if name != allowed or Path(name).name != name:
                raise BundleError(
                    f"{self.path} refers to the file {name!r}, and the manifest says that its weights lie in "
                    f"{allowed!r} beside it. Export it again"
                )
            weights = self.path.parent / name
            try:
                plain = is_plain(weights)
            except OSError as error:
                raise BundleError(f"{weights} cannot be read ({error.strerror}); export it again") from error
            if not plain:
                raise BundleError(f"{weights} is no plain file, and nothing else is read. Export it again")

    def _rows(self, tokens: str) -> int | None:
        """Rows of the smallest table whose rows token ids choose: all that follows from them but by a gather."""
        sizes = {tensor.name: tuple(tensor.dims) for tensor in self._model.graph.initializer}
        ids, rows = {tokens}, []
        for node in self._model.graph.node:
            if node.op_type in _GATHERS and node.input[1] in ids and node.input[0] in sizes:
                rows.append(sizes[node.input[0]][0])
            elif node.op_type != "Shape" and ids.intersection(node.input):
                ids.update(node.output)
        return min(rows, default=None)


def _tensors(values: Iterable[Any]) -> dict[str, HeldTensor]:
    found = {}
    for value in values:
        tensor = value.type.tensor_type
        sizes = tuple(
            (size.dim_value, size.dim_value) if size.HasField("dim_value") else (1, None) for size in tensor.shape.dim
        )
        found[value.name] = HeldTensor(_DTYPES.get(tensor.elem_type, "another type"), sizes)
    return found


def external_files(message: Any) -> Iterator[str]:
    """The files that tensors anywhere in a message lie in: in graphs, nodes, functions, and graphs in nodes."""
    if isinstance(message, onnx.TensorProto):
        if message.data_location == onnx.TensorProto.EXTERNAL or message.external_data:
            places = {entry.key: entry.value for entry in message.external_data}
            yield places.get("location", "")
        return
    for field, value in message.ListFields():
        if field.message_type is not None:
            for part in value if isinstance(value, Iterable) else [value]:
                yield from external_files(part)
