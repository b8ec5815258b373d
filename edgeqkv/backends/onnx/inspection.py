"""What any ONNX file says of itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from math import prod
from pathlib import Path
from typing import Any

import onnx

from edgeqkv.backends.inspection import FileFacts, FunctionFacts
from edgeqkv.backends.onnx.graph_file import external_files
from edgeqkv.bundle.files import is_plain
from edgeqkv.errors import BundleError
from edgeqkv.reading import check_file

__all__ = ["inspect"]

_BITS = {"FLOAT": 32, "DOUBLE": 64, "INT64": 64, "UINT64": 64, "INT32": 32, "UINT32": 32, "FLOAT16": 16, "BFLOAT16": 16}
_BITS |= {"INT16": 16, "UINT16": 16, "INT4": 4, "UINT4": 4, "INT2": 2, "UINT2": 2, "FLOAT4E2M1": 4}


def inspect(path: Path) -> FileFacts:
    """Read a model without its weights.

    Raises:
        BundleError: it is missing or damaged.
    """
    size = check_file(path, BundleError, "ONNX model")
    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as error:  # protobuf's DecodeError differs between its implementations
        raise BundleError(f"{path} is damaged: it is no ONNX model ({error})") from error
    if not model.graph.node:
        raise BundleError(f"{path} is no ONNX model: it has no graph")
    beside, missing = 0, []
    for name in sorted(set(external_files(model))):
        file = path.parent / name
        if Path(name).name == name and _is_there(file):
            beside += file.stat().st_size
        else:
            missing.append(name)
    weights: Counter[str] = Counter()
    for tensor in model.graph.initializer:
        kind = onnx.TensorProto.DataType.Name(tensor.data_type)
        weights[kind.lower()] += -(-prod(tensor.dims) * _BITS.get(kind, 8) // 8)
    given = {tensor.name for tensor in model.graph.initializer}
    graph = FunctionFacts(
        name=model.graph.name,
        inputs=dict(_ends(each for each in model.graph.input if each.name not in given)),
        outputs=dict(_ends(model.graph.output)),
        states={},
        operators=dict(Counter(node.op_type for node in model.graph.node).most_common()),
    )
    return FileFacts(
        path=path,
        title="ONNX model",
        bytes=size + beside,
        functions=(graph,),
        made_by=" ".join(filter(None, (model.producer_name, model.producer_version))),
        needs=(
            f"ONNX IR {model.ir_version}",
            *(f"{each.domain or 'ai.onnx'} {each.version}" for each in model.opset_import),
        ),
        weights=dict(weights.most_common()),
        properties={entry.key: entry.value for entry in model.metadata_props}
        | ({"description": model.doc_string} if model.doc_string else {}),
        notes=tuple(f"its weights lie in {name!r}, which is not there" for name in missing),
    )


def _is_there(file: Path) -> bool:
    try:
        return is_plain(file)
    except OSError:
        return False


def _ends(values: Iterable[Any]) -> Iterator[tuple[str, str]]:
    for value in values:
        kind = value.type.WhichOneof("value")
        if kind != "tensor_type":
            yield value.name, str(kind or "of no type").removesuffix("_type")
            continue
        tensor = value.type.tensor_type
        sizes = [
            str(size.dim_value) if size.HasField("dim_value") else size.dim_param or "?" for size in tensor.shape.dim
        ]
        yield value.name, f"{onnx.TensorProto.DataType.Name(tensor.elem_type).lower()}[{', '.join(sizes)}]"
