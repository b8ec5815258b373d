"""What a backend wrote, described so that a session, a report and an app's programmer need nothing else.

These records are the ``targets`` part of a bundle's ``manifest.json``.
"""

from __future__ import annotations

from math import prod
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["ELEMENT_BYTES", "Artifact", "EncoderArtifact", "Graph", "Normalization", "StateTensor", "TensorSpec"]

ELEMENT_BYTES: Final = {"fp32": 4, "fp16": 2, "int8": 1, "int32": 4, "int64": 8, "bool": 1}
"""Bytes of one number, for every type name that edgeqkv uses."""


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TensorSpec(_Record):
    """An input or output. A dimension that varies from call to call is given by its name."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


class Graph(_Record):
    """One thing that can be called: a file, or a method or function in one.

    ``tokens`` is the most tokens that a call takes; ``fixed`` says that it takes exactly so many.
    ``window``, where it is given, is how many positions of the state this graph reads.
    """

    name: str
    file: str
    tokens: int
    fixed: bool
    window: int | None = None
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


class StateTensor(_Record):
    """One tensor of the KV state.

    ``role`` is ``kv`` for a merged tensor, else ``k`` or ``v``; or ``unused``, for one that a runtime holds and the
    model has no need of. ``layer`` is None for that, and where one tensor holds all layers. ``input`` and ``output``
    name the graph's ends where the caller holds the state; they are None where the runtime does. ``aliases`` are
    further outputs that hold the same tensor, and must be bound to the same memory.
    """

    name: str
    role: str
    layer: int | None
    dtype: str
    shape: tuple[int, ...]
    input: str | None = None
    output: str | None = None
    aliases: tuple[str, ...] = ()

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * ELEMENT_BYTES[self.dtype]


class Artifact(_Record):
    """One target's export.

    Attributes:
        target: the backend's name.
        form: which of the backend's forms of the graph.
        weights: precision of the stored weights.
        state: precision of the stored state.
        context: tokens that the state has room for.
        chunk: the most tokens a call takes (prefill).
        vocab_size: width of the logits.
        axes: what the dimensions of a state tensor are.
        graphs: what can be called.
        state_tensors: the KV state, tensor by tensor.
        versions: of the packages that wrote it.
        details: what only this backend has to say.
    """

    target: str
    form: str
    weights: str
    state: str
    context: int
    chunk: int
    vocab_size: int
    axes: tuple[str, ...]
    graphs: tuple[Graph, ...]
    state_tensors: tuple[StateTensor, ...]
    versions: dict[str, str]
    details: dict[str, Any] = Field(default_factory=dict)

    @property
    def state_bytes(self) -> int:
        """Memory that the KV state takes."""
        return sum(tensor.nbytes for tensor in self.state_tensors)


class Normalization(_Record):
    """What a graph does to the pixels of each channel of an image, 0 to 255: ``(pixel / 255 - mean) / std``."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


class EncoderArtifact(_Record):
    """One target's export of an encoder.

    Attributes:
        target: the backend's name.
        form: which of the backend's forms of the graph.
        weights: precision of the stored weights.
        batch: inputs that a call takes, exactly.
        file: what to load.
        function: the method or function in it that is called; None where the file is one.
        input: ``[batch, …]``: token ids, feature vectors or pixels.
        output: logits ``[batch, …]``.
        values: token ids are ``0 … values - 1``; None where the input is none.
        normalization: given where the input is an image of the target's own type, and not normalized pixels.
        versions: of the packages that wrote it.
        details: what only this backend has to say.
    """

    target: str
    form: str
    weights: str
    batch: int
    file: str
    function: str | None = None
    input: TensorSpec
    output: TensorSpec
    values: int | None = None
    normalization: Normalization | None = None
    versions: dict[str, str]
    details: dict[str, Any] = Field(default_factory=dict)
