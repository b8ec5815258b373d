"""Every record of ``manifest.json``: what was exported, so that a session, a report and an app need nothing else.

A graph is called by **role**: each of its inputs says what it is to be filled with, and whoever runs it chooses a graph
and fills its inputs without knowing the target (`edgeqkv.run.session`; the sample apps do the same).

    ============  ========================================================================================
    role          what an input of it is given
    ============  ========================================================================================
    tokens        the call's token ids
    positions     where each of them stands
    start         where the first of them stands, a single number
    length        how many positions are filled after the call: a single number; where the shape's last
                  dimension has a name, zeros of that shape, whose size is what counts
    logit_index   which of the tokens' logits is wanted, a single number. A graph of a fixed size that has
                  this input can be filled up with any tokens behind the last one
    mask          of floats: added to the scores, 0 where a row's token may look at a column's, else the
                  lowest number; of integers: ones, one for each position that is filled
    pixels        an image's normalized pixels; ``image``: as it is, 0 to 255
    features      feature vectors
    state         a state tensor (`StateTensor.input`)
    ============  ========================================================================================

Outputs are ``logits`` and ``state``. A dimension that varies from call to call has a name: ``tokens`` (of this call),
``end`` (positions filled after it), ``end + 1``, ``context`` (the room that the caller allocates).
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, GetPydanticSchema, field_validator, model_validator
from typing_extensions import TypedDict  # pydantic takes typing's from Python 3.12 on

from edgeqkv.model.dtypes import Dtype

__all__ = [
    "FORMAT",
    "Artifact",
    "ChatCard",
    "Compiled",
    "FileCard",
    "Graph",
    "LayerCard",
    "Manifest",
    "ModelCard",
    "Normalization",
    "NpuFigures",
    "Quality",
    "QuantizationCard",
    "Ranges",
    "Role",
    "StateTensor",
    "StateUpdate",
    "TargetCard",
    "TensorSpec",
    "TokenizerCard",
    "Verification",
]

FORMAT: Final = 2
"""Counts up when the meaning of a manifest changes. 1 had no roles, and other records for encoders."""

Role = Literal[
    "tokens",
    "positions",
    "start",
    "length",
    "logit_index",
    "mask",
    "pixels",
    "features",
    "image",
    "logits",
    "state",
]

StateUpdate = Literal["in_place", "rows", "runtime"]


Count = Annotated[int, Field(ge=1)]
"""How many there are of something that there must be, as every size in a manifest is."""


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


def _known(dtype: str) -> str:
    if dtype not in list(Dtype):
        raise ValueError(f"'{dtype}' is no type of number; these are: {', '.join(Dtype)}")
    return dtype


class _Typed(_Record):
    """Something of a type, which is named as edgeqkv names it and as NumPy does."""

    dtype: str
    numpy_dtype: str = ""

    @model_validator(mode="before")
    @classmethod
    def _as_numpy_names_it(cls, values: Any) -> Any:
        if isinstance(values, Mapping) and isinstance(dtype := values.get("dtype"), str) and dtype in list(Dtype):
            return {**values, "numpy_dtype": Dtype(dtype).numpy.name}
        return values

    @field_validator("dtype")
    @classmethod
    def _is_known(cls, dtype: str) -> str:
        return _known(dtype)


class TensorSpec(_Typed):
    """An input or output. A dimension that varies from call to call is given by its name."""

    name: str
    shape: tuple[Count | str, ...]
    role: Role


class Graph(_Record):
    """One thing that can be called: a file, or a method or function in one.

    ``tokens`` is the most tokens that a call takes; ``fixed`` says that it takes exactly so many.
    ``window``, where it is given, is how many positions of the state this graph reads. An encoder's graph takes
    whole inputs: as many as its batch.
    """

    name: str
    file: str
    tokens: Count = 1
    fixed: bool = True
    window: Count | None = None
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def input(self, *roles: Role) -> TensorSpec | None:
        """The input of one of these roles, if it has one."""
        return next((spec for spec in self.inputs if spec.role in roles), None)

    @model_validator(mode="after")
    def _can_be_called(self) -> Self:
        roles = [spec.role for spec in self.outputs]
        if roles.count("logits") != 1:
            raise ValueError(
                f"the graph '{self.name}' has {roles.count('logits')} outputs of the role 'logits', not one"
            )
        return self

    @property
    def logits(self) -> TensorSpec:
        """The output that everybody wants."""
        return next(spec for spec in self.outputs if spec.role == "logits")


class StateTensor(_Typed):
    """One tensor of the KV state (the KV cache).

    ``role`` is ``kv`` for a merged tensor, else ``k`` or ``v``; or ``unused``, for one that a runtime holds and the
    model has no need of. ``layer`` is None for that, and where one tensor holds several layers.

    ``update`` says who writes the new rows: the graph itself, where the caller binds ``input``, ``output`` and
    ``aliases`` (further outputs that hold the same tensor) to one memory (``in_place``); the caller, who gets the new
    rows alone as ``output`` (``rows``); or the runtime, which holds the state and lets nobody see it (``runtime``).

    A ``ring`` has fewer rows than the context: where a layer sees a window alone, new rows replace the oldest.

    ``zero`` is the code that stands for 0, which the caller fills a new state with.
    """

    name: str
    role: str
    layer: int | None
    shape: tuple[Count, ...]
    ring: bool = False
    zero: Annotated[int, Field(ge=-128, le=255)] = 0
    update: StateUpdate
    input: str | None = None
    output: str | None = None
    aliases: tuple[str, ...] = ()

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * Dtype(self.dtype).bytes


class Normalization(_Record):
    """What a graph does to the pixels of each channel of an image, 0 to 255: ``(pixel / 255 - mean) / std``."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


class _Details(TypedDict, total=False):
    """What only some targets have to say. What is read of it is of a type; the rest is for people.

    ``weight_file`` holds the weights that graphs share, ``code_layouts`` are the orders of their codes,
    ``state_scales`` are those of an int8 state by the names of its tensors, ``logit_scales`` those of the codes that a
    graph gives for logits, by its name, ``input_scale`` that of the codes that it takes for numbers,
    ``planned_memory_bytes`` is what a program's memory plan takes, ``variant`` is the model's, ``soc`` the chip that it
    is for, ``compile_with`` the command that compiles it where that was not done.
    """

    __pydantic_config__ = ConfigDict(extra="allow")  # type: ignore[misc]

    weight_file: str
    code_layouts: list[list[int]]
    state_scales: dict[str, Annotated[float, Field(gt=0, allow_inf_nan=False)]]
    input_scale: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    logit_scales: dict[str, Annotated[float, Field(gt=0, allow_inf_nan=False)]]
    planned_memory_bytes: Annotated[int, Field(ge=0, strict=True)]
    variant: str
    soc: str
    compile_with: str


class NpuFigures(_Record):
    """What a compiler says of one call of a graph: the most bytes that it takes of each memory, and cycles of the NPU.

    ``flash_bytes`` is what is only read, weights above all; where the chip is said to have SRAM alone, it is there.
    """

    sram_bytes: Annotated[int, Field(ge=0)]
    dram_bytes: Annotated[int, Field(ge=0)]
    flash_bytes: Annotated[int, Field(ge=0)]
    cycles: Annotated[int, Field(ge=0)]


class Compiled(_Record):
    """What a chip's compiler made of an artifact's graphs, and what it says of them.

    Attributes:
        soc: the chip, as ``--soc`` takes it. Others may not run it, or may give other numbers.
        compiler: what compiled it, with its version.
        graphs: by the name of a graph, the file that an app opens in its place; its inputs and outputs are the same.
        binary: the file that all of these load.
        binary_bytes: its size.
        fast_memory_bytes: of the chip's memory for working data (VTCM), what it was compiled to use.
        spill_bytes: by the name of a graph, the buffer for what does not fit there.
        seconds: by the name of a graph, how long compiling it took where it was compiled.
        calls: calls in which it was run in the vendor's simulation, on the state that the graphs were run on.
        max_abs_error: the largest |difference| of their logits.
        tolerance: what was allowed.
        max_code_error: by how many codes rows of the state differ at most.
        figures: by the name of a graph, what the compiler expects of a call.
        system: what the chip's memories were taken to be, in the compiler's words.
    """

    soc: str
    compiler: str
    graphs: dict[str, str]
    binary: str
    binary_bytes: Count
    fast_memory_bytes: Count
    spill_bytes: dict[str, Annotated[int, Field(ge=0)]]
    seconds: dict[str, float]
    calls: int = 0
    max_abs_error: float = 0.0
    tolerance: float = 0.0
    max_code_error: int = 0
    figures: dict[str, NpuFigures] = Field(default_factory=dict)
    system: str = ""

    @property
    def files(self) -> tuple[str, ...]:
        """The files of the graphs, and what they load."""
        return tuple(dict.fromkeys((*self.graphs.values(), self.binary)))


class Artifact(_Record):
    """One target's export.

    Attributes:
        target: the target's name.
        form: which of the target's forms of the graph.
        weights: precision of the stored weights.
        block: columns that share a scale at most, where that was chosen; None: as many as the target's own scheme has.
        state: precision of the stored state; None without one.
        context: tokens that the state has room for; None for an encoder, which has no state.
        chunk: the most tokens that a call takes (prefill); None for an encoder.
        batch: inputs that a call takes, exactly.
        vocab_size: token ids are ``0 … vocab_size - 1``; None where the input is none.
        axes: what the dimensions of a state tensor are.
        graphs: what can be called.
        state_tensors: the KV state, tensor by tensor.
        normalization: given where the input is an image of the target's own type, and not normalized pixels.
        compiled: what a chip's compiler made of the graphs, where the target has one and it was at hand.
        versions: of the packages that wrote it.
        details: what only this target has to say.
    """

    target: str
    form: str
    weights: str
    block: Count | None = None
    state: str | None = None
    context: Count | None = None
    chunk: Count | None = None
    batch: Count = 1
    vocab_size: Count | None = None
    axes: tuple[str, ...] = ()
    graphs: Annotated[tuple[Graph, ...], Field(min_length=1)]
    state_tensors: tuple[StateTensor, ...] = ()
    normalization: Normalization | None = None
    compiled: Compiled | None = None
    versions: dict[str, str] = Field(default_factory=dict)
    details: Annotated[dict[str, Any], GetPydanticSchema(lambda _, schema_of: schema_of(_Details))] = Field(
        default_factory=dict
    )

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> Self:
        if self.causal and self.vocab_size is None:
            raise ValueError("it has a context and no vocab_size, and what continues a text has both")
        if self.state is not None:
            _known(self.state)
        if self.causal and self.state is None:
            raise ValueError("it has a context and no state")
        if not self.causal and len(self.graphs[0].inputs) != 1:
            raise ValueError(f"it has no context, and {len(self.graphs[0].inputs)} inputs where an encoder has one")
        if not self.causal and self.whole_input.shape[:1] != (self.batch,):
            raise ValueError(f"its batch is {self.batch}, and its input has the shape {list(self.whole_input.shape)}")
        return self

    @property
    def files(self) -> tuple[str, ...]:
        """What it lies in: the files of its graphs, or folders of files, and that of the weights that they share."""
        shared = self.details.get("weight_file")
        files = dict.fromkeys(graph.file for graph in self.graphs)
        return (*files, *([] if shared is None else [shared]), *(self.compiled.files if self.compiled else ()))

    @property
    def causal(self) -> bool:
        """Whether it continues a text, and keeps a state; else it looks at whole inputs."""
        return self.context is not None

    @property
    def state_bytes(self) -> int:
        """Memory that the KV state takes."""
        return sum(tensor.nbytes for tensor in self.state_tensors)

    @property
    def whole_input(self) -> TensorSpec:
        """What an encoder is given: ``[batch, …]``."""
        (spec,) = self.graphs[0].inputs
        return spec


class Verification(_Record):
    """The outcome of a comparison with the original.

    Attributes:
        passed: whether every step was within the tolerance and the state ended where it should.
        max_abs_error: the largest |difference| of a logit.
        tolerance: what was allowed.
        scale: the largest |logit| of the original.
        steps: how many times logits were compared.
        positions: tokens that were fed (the whole context), or an encoder's inputs.
        argmax_equal: steps whose most likely token was the original's.
        compared: logits compared a step.
        engine: what ran it.
        failure: what went wrong, in words; empty if nothing did.
    """

    # Not-a-number is no JSON; a failed comparison may well have produced some.
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    passed: bool
    max_abs_error: float
    tolerance: float
    scale: float
    steps: int
    positions: int
    argmax_equal: int
    compared: int
    engine: str
    failure: str = ""


class Quality(_Record):
    """What a text said of an artifact.

    Attributes:
        text: the text file's name.
        tokens: tokens that were predicted.
        perplexity: of the artifact, ``exp`` of its mean negative log-likelihood a token.
        original: of the checkpoint on the same tokens; None if it was not at hand.
    """

    text: str
    tokens: int
    perplexity: float
    original: float | None

    @property
    def degradation(self) -> float | None:
        """By how much the perplexity rose, as a part of the original's; None if that is unknown."""
        return None if self.original is None else self.perplexity / self.original - 1


class Ranges(_Record):
    """How large numbers become in an artifact that computes in fp16, estimated by rounding every result to it.

    Attributes:
        engine: what estimated it.
        largest: the largest magnitude of an activation.
        at: where that is: the function, the operation, and the weight that it uses or comes after.
        share: the same as a part of fp16's largest number, 65504.
        overflowed: what is beyond that, or attention scores beyond what a mask hides, in the order of computation; at
            most five are named. A device may give not-a-number.
        note: why there is no estimate, where there is none.
    """

    engine: str
    largest: float = 0.0
    at: str = ""
    share: float = 0.0
    overflowed: tuple[str, ...] = ()
    note: str = ""


class LayerCard(_Record):
    """What one layer's attention keeps, which a model's dimensions do not say where its layers differ.

    Attributes:
        heads, kv_heads, head_dim: query heads, the KV heads that they read, and numbers in each.
        merged: whether keys and values are one tensor.
        window: how many positions a token sees; None: all.
        source: the layer whose state it reads, where it keeps none.
    """

    heads: Count
    kv_heads: Count
    head_dim: Count
    merged: bool
    window: Count | None = None
    source: Annotated[int, Field(ge=0)] | None = None


class ModelCard(_Record):
    """The model: its variant in the canonical spelling, its dimensions and where it came from.

    ``layers`` has an entry for each layer of a decoder; bundles of older versions have none.

    ``original`` is how edgeqkv's reference, with which every target is compared, compares with the implementation that
    the model was made with; None where there is none to run.
    """

    kind: str
    variant: str
    parameters: int
    config: dict[str, Any]
    source: dict[str, Any]
    notes: tuple[str, ...]
    original: Verification | None = None
    layers: tuple[LayerCard, ...] = ()

    @field_validator("layers")
    @classmethod
    def _read_what_is_kept(cls, layers: tuple[LayerCard, ...]) -> tuple[LayerCard, ...]:
        for index, source in enumerate(layer.source for layer in layers):
            if source is not None and (source >= index or layers[source].source is not None):
                raise ValueError(f"layer {index} reads the state of layer {source}, which keeps none before it")
        return layers


class ChatCard(_Record):
    """The text that a chat template writes around the messages of a conversation, for apps that have no Jinja.

    A conversation is: ``first``, the user's message, then for each answer that was given ``answered``, the answer,
    ``next``, the user's next message; and ``answer``, after which the model's own begins. Where there is a message of
    the system, ``system.before``, that message and ``system.after`` stand in the place of ``first``; without ``system``
    the template takes none. ``trimmed``: messages lose the white space at their ends.
    """

    class System(_Record):
        """What stands around the system's message."""

        before: str
        after: str

    first: str
    answered: str
    next: str
    answer: str
    trimmed: bool
    system: System | None = None


class TokenizerCard(_Record):
    """The tokenizer file and the ids that begin and end a text.

    ``source`` is the file that was taken, ``eos_source`` what says which tokens end a text; ``notes`` is what people
    should know of them. ``chat`` is the chat template taken apart; None without one, or where it is too much for that.
    """

    file: str
    size: int
    bos_id: int | None
    eos_token_ids: tuple[int, ...]
    source: str = ""
    eos_source: str = ""
    notes: tuple[str, ...] = ()
    chat: ChatCard | None = None


class FileCard(_Record):
    """What a file must be to be the one that was written."""

    bytes: int
    sha256: str


class QuantizationCard(_Record):
    """How the weights were quantized: ``nearest``, ``gptq`` or ``gptq+tuned``, the steps of the tuning, and the name of
    the text for the latter two."""

    weights: str
    head: str
    method: str
    tuning: int = 0
    calibration: str | None


class TargetCard(_Record):
    """One target: the artifact, how its weights were quantized, how it was verified (unless that was switched off), its
    perplexity on a text, if one was given, and what fp16 will make of it, where it computes in that.

    ``verification`` is of the engine that computes what is stored and rounds no more than its arithmetic does;
    ``engines`` are those of the others that ran here, above all of what an app runs.
    """

    artifact: Artifact
    quantization: QuantizationCard | None = None
    verification: Verification | None
    engines: dict[str, Verification] = Field(default_factory=dict)
    quality: Quality | None = None
    ranges: Ranges | None = None


class Manifest(_Record):
    """``manifest.json``."""

    format: int
    edgeqkv: str
    model: ModelCard
    tokenizer: TokenizerCard | None
    targets: dict[str, TargetCard]
    files: dict[str, FileCard]

    @model_validator(mode="after")
    def _targets_are_what_they_are_called(self) -> Self:
        for name, card in self.targets.items():
            if name != card.artifact.target:
                raise ValueError(f"what it calls '{name}' is an artifact of '{card.artifact.target}'")
        return self
