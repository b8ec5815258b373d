"""The memory of an export that need not exist: every term in closed form, from the model's dimensions.

This is what compares variants and contexts. What has been exported is read from its files instead
(`edgeqkv.budget.files`); tests hold the two against each other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from edgeqkv.budget.footprint import ALL, MIB, RUNNING, Footprint, Phase, Term, count
from edgeqkv.bundle.manifest import ELEMENT_BYTES
from edgeqkv.model.variants import Sharing, Variant

__all__ = [
    "Dimensions",
    "Plan",
    "Storage",
    "common_terms",
    "footprint",
    "npu_footprint",
    "runtime_term",
    "state_phases",
    "stored_bytes",
]

TOKENIZER_BYTES_PER_ENTRY: Final = 600

_RUNTIME: Final = {
    "onnx": Term(
        "runtime",
        25 * MIB,
        "anonymous",
        ALL,
        "ONNX Runtime: 19.5 MiB of its library in use, 5.5 MiB of a session's own objects",
        "measured on Linux x86-64 with ONNX Runtime 1.31 and a model of 0.9 M parameters; not on the device",
    ),
    "onnx genai": Term(
        "runtime",
        50 * MIB,
        "anonymous",
        ALL,
        "ONNX Runtime, 25 MiB, and onnxruntime-genai, 25 MiB: 16 of its library in use, 9 of its objects",
        "measured on Linux x86-64 with onnxruntime-genai 0.18 and a model of 0.9 M parameters; not on the device",
    ),
    "executorch": Term(
        "runtime",
        10 * MIB,
        "anonymous",
        ALL,
        "ExecuTorch with XNNPACK: 4 MiB of its library in use, 6 MiB for the program's own tables and threads",
        "the library measured on Linux x86-64 with ExecuTorch 1.4; the rest assumed",
        assumed=True,
    ),
    "coreml": Term(
        "runtime",
        50 * MIB,
        "anonymous",
        ALL,
        "Core ML in the app's process",
        "assumed: nobody has published it, and nothing was run on Apple hardware",
        assumed=True,
    ),
}


@dataclass(frozen=True)
class Dimensions:
    """A decoder's dimensions and its variant, as a manifest or a checkpoint gives them."""

    variant: Variant
    layers: int
    hidden_size: int
    heads: int
    head_dim: int
    intermediate_size: int
    vocab_size: int
    positions: int
    tied_head: bool

    @classmethod
    def of(cls, variant: str | Variant, config: Mapping[str, Any]) -> Dimensions:
        """From a `DecoderConfig`'s fields."""
        names = ("layers", "hidden_size", "heads", "head_dim", "intermediate_size", "vocab_size", "positions")
        return cls(
            variant=Variant.parse(variant) if isinstance(variant, str) else variant,
            tied_head=bool(config["tied_head"]),
            **{name: int(config[name]) for name in names},
        )

    @property
    def kv_heads(self) -> int:
        return self.variant.kv_heads_of(self.heads)

    @property
    def tensors(self) -> int:
        """State tensors a layer."""
        return self.variant.sharing.tensors

    @property
    def projected(self) -> int:
        """Rows of a layer's query, key and value matrices, shared ones counted once."""
        queries, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        match self.variant.sharing:
            case Sharing.QKV:
                return queries + 2 * keys
            case Sharing.K_IS_V | Sharing.QVV3:
                return queries + keys
            case Sharing.Q_IS_K:
                return 2 * queries
            case Sharing.ALL:
                return queries

    @property
    def matrices(self) -> int:
        """Numbers in the linear layers' matrices."""
        attention = (self.projected + self.heads * self.head_dim) * self.hidden_size
        return self.layers * (attention + 2 * self.hidden_size * self.intermediate_size)

    @property
    def rest(self) -> int:
        """Numbers in biases (where there are any) and normalizations; a thousandth of the model."""
        each = self.projected + 6 * self.hidden_size + self.intermediate_size
        return self.layers * each + 2 * self.hidden_size

    @property
    def table(self) -> int:
        """Numbers in the token table, and in the head where that is another."""
        return self.vocab_size * self.hidden_size

    @property
    def parameters(self) -> int:
        tables = self.table * (1 if self.tied_head else 2) + self.positions * self.hidden_size
        return self.matrices + self.rest + tables

    def state_bytes(self, context: int, state: str) -> int:
        """The KV state, in bytes: see `Variant.bytes_per_token`."""
        per_token = self.variant.bytes_per_token(
            layers=self.layers, heads=self.heads, head_dim=self.head_dim, element_bytes=ELEMENT_BYTES[state]
        )
        return context * per_token


@dataclass(frozen=True)
class Storage:
    """How a precision stores a matrix: bytes of a number's code, and of its part in scales or in a table."""

    name: str
    codes: float
    scales: float = 0.0

    @classmethod
    def of(cls, plan: Plan) -> Storage:
        """The storage of the precision that an export was asked for."""
        weights = plan.weights
        if weights in ELEMENT_BYTES and weights.startswith("fp"):
            return cls(weights, ELEMENT_BYTES[weights])
        from edgeqkv.quantize import PALETTES, SCHEMES

        if weights in PALETTES:
            palette = PALETTES[weights]
            return cls(weights, palette.bits / 8, 2 * palette.entries / (palette.rows * plan.dimensions.hidden_size))
        scheme = SCHEMES[weights]
        if plan.target != "executorch":
            return cls(weights, scheme.bits / 8, 4 / scheme.block)
        # XNNPACK has int8 with a float32 scale a row, and int4 with a bfloat16 one a block.
        scales = 2 / scheme.block if scheme.bits == 4 else 4 / plan.dimensions.hidden_size
        return cls(weights, scheme.bits / 8, scales)

    @property
    def quantized(self) -> bool:
        return self.scales > 0

    @property
    def rest(self) -> int:
        """Bytes of a number that is not quantized."""
        return 2 if self.quantized else int(self.codes)

    def bytes(self, numbers: int) -> int:
        return round(numbers * (self.codes + self.scales))


@dataclass(frozen=True)
class Plan:
    """An export: what of, to what, and how large. ``tokenizer`` is the entries of its vocabulary, 0 without one."""

    dimensions: Dimensions
    target: str
    form: str
    weights: str
    state: str
    context: int
    chunk: int
    tokenizer: int = 0

    def with_variant(self, variant: Variant) -> Plan:
        return replace(self, dimensions=replace(self.dimensions, variant=variant))


def footprint(plan: Plan) -> Footprint:
    """Every term of an export of this plan, from the model's dimensions alone."""
    return Footprint((*_weight_terms(plan), *common_terms(plan), runtime_term(plan.target, plan.form)))


def npu_footprint(plan: Plan) -> Footprint:
    """What lies in the memory that an NPU addresses: the weights as they are stored, the state, the activations."""
    weights = Term("weights", stored_bytes(plan), "anonymous", ALL, "as they are stored", "the model's dimensions")
    return Footprint((weights, *_state_terms(plan), *_activation_terms(plan)))


def runtime_term(target: str, form: str) -> Term:
    """What the runtime takes on a device before it holds a model; a form may have one of its own."""
    return _RUNTIME.get(f"{target} {form}", _RUNTIME[target])


def common_terms(plan: Plan) -> tuple[Term, ...]:
    """State, activations, logits and tokenizer: what follows from the dimensions whatever the weights are."""
    return (*_state_terms(plan), *_activation_terms(plan), *_caller_terms(plan))


def stored_bytes(plan: Plan) -> int:
    """What the weights take in the export's files, in bytes."""
    dims, storage = plan.dimensions, Storage.of(plan)
    matrices = dims.matrices + dims.table * (1 if dims.tied_head else 2)
    return storage.bytes(matrices) + (plan.context * dims.hidden_size + dims.rest) * storage.rest


def _graphs(plan: Plan) -> int:
    """Graphs that a process has open at once: of ONNX's fixed shapes, prefill and decode of one window."""
    return 2 if (plan.target, plan.form) == ("onnx", "static") and plan.chunk > 1 else 1


def _weight_terms(plan: Plan) -> tuple[Term, ...]:
    dims, storage = plan.dimensions, Storage.of(plan)
    origin = f"{storage.name} storage of {count(dims.parameters)} parameters"
    stored = stored_bytes(plan)
    linears = dims.matrices + dims.table
    rest = (plan.context * dims.hidden_size + dims.rest) * storage.rest
    tables = storage.bytes(dims.table) + rest
    match plan.target:
        case "onnx" if plan.weights == "fp32":
            return (_mapped(stored, f"{count(dims.parameters)} parameters × 4, mapped as they are", origin),)
        case "onnx":
            copied = round(linears * (storage.codes + 2 * storage.scales)) if storage.quantized else linears * 4
            how = "packed for the kernels: codes, scales and sums a block" if storage.quantized else "expanded to fp32"
            graphs = _graphs(plan)
            many = f", in each of {graphs} graphs" if graphs > 1 else ""
            scales = round(dims.matrices * storage.scales)
            return (
                _copied(graphs * copied, f"{count(linears)} numbers of matrices and head, {how}{many}", origin),
                _mapped(tables + scales, "token and position tables, scales", origin, streamed=False),
            )
        case "executorch":
            head = Term(
                "weights",
                storage.bytes(dims.table),
                "mapped again" if dims.tied_head else "mapped",
                ("load",),
                f"the head's {count(dims.table)} numbers, mapped while they are repacked",
                origin,
            )
            return (
                _copied(storage.bytes(linears), f"{count(linears)} numbers, repacked by XNNPACK", origin),
                _mapped(tables, "token and position tables, held in memory", origin, streamed=False),
                head,
            )
        case _:
            return (_mapped(stored, f"{count(dims.parameters)} parameters, once", f"{origin}; {_APPLE}", assumed=True),)


_APPLE: Final = "whether Core ML maps or copies them, and once or twice, is not known"


def _mapped(size: int, formula: str, origin: str, *, assumed: bool = False, streamed: bool = True) -> Term:
    return Term("weights", size, "mapped", ALL, formula, origin, assumed, streamed)


def _copied(size: int, formula: str, origin: str) -> Term:
    return Term("weights", size, "anonymous", ALL, formula, origin, streamed=True)


def state_phases(target: str) -> tuple[Phase, ...]:
    """When the state takes memory: ExecuTorch clears it at load, elsewhere its pages appear as they are written."""
    return ALL if target == "executorch" else RUNNING


def _state_terms(plan: Plan) -> tuple[Term, ...]:
    dims = plan.dimensions
    # onnxruntime-genai holds tensors in pairs.
    unused = int(plan.form == "genai" and dims.layers * dims.tensors % 2 == 1)
    layers = f"{dims.layers} layers and an unused one" if unused else f"{dims.layers} layers"
    formula = (
        f"{layers} × {dims.tensors} tensors × {dims.kv_heads} KV heads × {dims.head_dim} × "
        f"{plan.context} tokens × {ELEMENT_BYTES[plan.state]} bytes"
    )
    size = dims.state_bytes(plan.context, plan.state) * (dims.layers + unused) // dims.layers
    phases = state_phases(plan.target)
    return (Term("state", size, "anonymous", phases, formula, "the variant's arithmetic", streamed=True),)


def _activation_terms(plan: Plan) -> tuple[Term, ...]:
    calls: tuple[tuple[Phase, int], ...] = (("prefill", plan.chunk), ("decode", 1))
    terms = []
    for phase, tokens in calls:
        size, formula, assumed = _activations(plan, tokens)
        origin = "closed form of the graph's liveness"
        terms.append(Term("activations", size, "anonymous", (phase,), formula, origin, assumed))
    return tuple(terms)


def _activations(plan: Plan, tokens: int) -> tuple[int, str, bool]:
    dims = plan.dimensions
    if plan.target == "executorch":
        size = 3 * tokens * dims.intermediate_size * 4
        formula = f"3 × {tokens} tokens × {count(dims.intermediate_size)} × 4 bytes (plan and XNNPACK)"
        if plan.state == "int8":
            widened = dims.tensors * dims.kv_heads * plan.context * dims.head_dim * (ELEMENT_BYTES["int8"] + 4)
            return size + widened, f"{formula}, and a layer's state, cut to what is filled and widened", False
        return size, formula, False
    element = 2 if plan.target == "coreml" else 4
    scores = 2 * dims.heads * tokens * plan.context * element
    read = dims.tensors * dims.kv_heads * plan.context * dims.head_dim * element
    # A row of the mask for each of the rows that a KV head's queries are folded into.
    mask = plan.context * (dims.heads // dims.kv_heads if plan.target == "onnx" else 1)
    rest = tokens * (mask + dims.hidden_size) * element
    attention, mlp = scores + read + rest, tokens * (2 * dims.intermediate_size + dims.hidden_size) * element
    if mlp > attention:
        return mlp, f"{tokens} tokens × (2 × {count(dims.intermediate_size)} + {dims.hidden_size}) × {element}", False
    formula = (
        f"2 × {dims.heads} heads × {tokens} tokens × {plan.context} × {element} bytes of scores, "
        f"and the state's rows as attention reads them"
    )
    return attention, formula, plan.target == "coreml"


def _caller_terms(plan: Plan) -> tuple[Term, ...]:
    vocabulary = plan.dimensions.vocab_size
    terms = [
        Term(
            "logits", 2 * vocabulary * 4, "anonymous", RUNNING, f"2 × {count(vocabulary)} × 4 bytes", "a row and a copy"
        )
    ]
    if plan.tokenizer:
        terms.append(
            Term(
                "tokenizer",
                plan.tokenizer * TOKENIZER_BYTES_PER_ENTRY,
                "anonymous",
                ALL,
                f"{count(plan.tokenizer)} entries × {TOKENIZER_BYTES_PER_ENTRY} bytes",
                "measured with the tokenizers library: 596 bytes an entry at 50,257 entries",
            )
        )
    return tuple(terms)
