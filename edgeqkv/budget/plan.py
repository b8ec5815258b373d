"""An export that need not exist, and what it would take: from a network of shapes, as its target's memory model says.

This is what compares variants and contexts, and it needs no torch. What has been exported is read from its files
instead (`edgeqkv.budget.plan.footprint_of`); tests hold the two against each other.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from edgeqkv.backends import backend, choice, soc_of
from edgeqkv.backends.footprint import ALL, RUNNING, Footprint, Term, count
from edgeqkv.backends.memory import MemoryModel, memory_of
from edgeqkv.backends.target import TargetSpec
from edgeqkv.bundle.manifest import Artifact, LayerCard, ModelCard
from edgeqkv.errors import BundleError, UnsupportedError
from edgeqkv.model import shapes
from edgeqkv.model.architectures import shaped
from edgeqkv.model.config import DecoderConfig, EncoderConfig, config_of
from edgeqkv.model.layers import Heads
from edgeqkv.model.variants import Variant
from edgeqkv.reference.cost import costs, multiply_adds

if TYPE_CHECKING:
    from edgeqkv.model.model import Model

__all__ = ["ModelShape", "Plan", "footprint", "footprint_of", "npu_footprint", "plan_of", "working_terms"]

TOKENIZER_BYTES_PER_ENTRY: Final = 600

_ORDER: Final = ("weights", "state", "activations", "logits", "tokenizer", "runtime")


@dataclass(frozen=True)
class ModelShape:
    """A model without its numbers: its variant, its dimensions and its layers.

    Attributes:
        variant: what its attention shares.
        config: its dimensions.
        network: its layers, with weights that have shapes alone.
        exact: whether these are the model's own layers; else they are those that its dimensions suggest.
        keeps: whether what they keep is the model's own all the same.
    """

    variant: Variant
    config: DecoderConfig | EncoderConfig
    network: Any = field(compare=False, repr=False)
    exact: bool = True
    keeps: bool = True

    @classmethod
    def of(cls, config: DecoderConfig | EncoderConfig, variant: Variant) -> ModelShape:
        """From dimensions."""
        return _of(config, variant)

    @classmethod
    def of_model(cls, model: Model) -> ModelShape:
        """From a model."""
        return cls(model.variant, model.config, shapes.of_network(model.network))

    @classmethod
    def of_card(cls, card: ModelCard) -> ModelShape:
        """From a bundle's record of its model.

        Raises:
            UnsupportedError: its dimensions are of no kind that this edgeqkv knows, or its layers are not as many.
        """
        config = config_of(card.config)
        shape = _of_layers(config, Variant.parse(card.variant), card.layers)
        exact = shape.parameters == card.parameters
        return replace(shape, exact=exact, keeps=exact or bool(card.layers))

    @property
    def parameters(self) -> int:
        """Trained numbers; shared and tied ones count once."""
        return costs(self.network, *self.config.input.shape).parameters

    @property
    def multiply_adds(self) -> int:
        """Those of matrix products for one whole input."""
        shape = self.config.input.shape
        return multiply_adds(self.network, *shape, context=shape[0])

    @property
    def positions(self) -> int:
        """The longest context."""
        return self.config.input.shape[0]

    @property
    def default_context(self) -> int:
        """The context of an export that does not say which."""
        return self.config.default_context if isinstance(self.config, DecoderConfig) else self.positions

    def with_variant(self, variant: Variant) -> ModelShape:
        """The same model as another variant."""
        return _with_variant(self, variant)


# What was worked out of a network is remembered by the network's identity, so that equal ones have to be one.
@lru_cache(maxsize=64)
def _of(config: DecoderConfig | EncoderConfig, variant: Variant) -> ModelShape:
    return ModelShape(variant, config, shaped(config, variant))


@lru_cache(maxsize=64)
def _of_layers(config: DecoderConfig | EncoderConfig, variant: Variant, layers: tuple[LayerCard, ...]) -> ModelShape:
    shape = _of(config, variant)
    if not layers:
        return shape
    if len(layers) != config.layers:
        raise UnsupportedError(
            f"the bundle describes {len(layers)} layers of a model that has {config.layers}; export it again"
        )
    kept = [
        shapes.LayerShape(Heads(each.heads, each.kv_heads, each.head_dim), each.merged, each.window, each.source)
        for each in layers
    ]
    return replace(shape, network=shapes.with_layers(shape.network, kept))


def _with_variant(shape: ModelShape, variant: Variant) -> ModelShape:
    return replace(shape, variant=variant, network=_network_as(shape.network, variant))


@lru_cache(maxsize=128)
def _network_as(network: Any, variant: Variant) -> Any:
    return shapes.as_variant(network, variant)


@dataclass(frozen=True)
class Plan:
    """An export: what of, to what, and how. ``tokenizer`` is the entries of its vocabulary, 0 without one."""

    shape: ModelShape
    target: str
    spec: TargetSpec
    tokenizer: int = 0

    @property
    def form(self) -> str:
        return self.spec.form

    @property
    def weights(self) -> str:
        return self.spec.weights

    @property
    def state(self) -> str:
        return str(self.spec.state)

    @property
    def context(self) -> int:
        return int(self.spec.context or 0)

    @property
    def chunk(self) -> int:
        return int(self.spec.chunk or 0)

    @property
    def memory(self) -> MemoryModel:
        """What its target knows of memory."""
        return memory_of(backend(self.target))

    def changed(self, **changes: Any) -> Plan:
        """The same with something else asked of the target (`TargetSpec`)."""
        return replace(self, spec=replace(self.spec, **changes))

    def with_variant(self, variant: Variant) -> Plan:
        """The same export of another variant."""
        return replace(self, shape=self.shape.with_variant(variant))


def plan_of(shape: ModelShape, artifact: Artifact, tokenizer: int, head: str | None = None) -> Plan:
    """The plan that an artifact was made from; ``head`` is the precision of its token table and head.

    Raises:
        BundleError: its target offers no such thing.
    """
    target = backend(artifact.target)
    said = (("form", artifact.form), ("weights", artifact.weights), ("weights", head), ("state", artifact.state))
    try:
        for what, value in said:
            choice(target, what, value, causal=artifact.causal)
        soc_of(target, artifact.details.get("soc"))
    except UnsupportedError as error:
        raise BundleError(f"the manifest says wrongly what was exported: {error}. Export the model again") from error
    spec = TargetSpec(
        form=artifact.form,
        weights=artifact.weights,
        state=artifact.state,
        context=artifact.context,
        chunk=artifact.chunk,
        batch=artifact.batch,
        head=None if head == artifact.weights else head,
        block=artifact.block,
        soc=artifact.details.get("soc"),
    )
    return Plan(shape, artifact.target, spec, tokenizer)


def footprint(plan: Plan) -> Footprint:
    """Every term of an export of this plan, which need not exist."""
    return _in_order((*_marked(plan, plan.memory.planned(plan.shape.network, plan.spec)), *_caller_terms(plan)))


def footprint_of(directory: Path, artifact: Artifact, plan: Plan) -> Footprint:
    """Every term of an export that exists, with the plan that it was made from; what its files do not say is planned.

    Raises:
        BundleError: a file is missing or damaged.
        MissingExtra: reading the target's files needs a package.
    """
    read = plan.memory.exported(directory, artifact, plan.shape.network)
    return _in_order(Footprint((*working_terms(plan), *_caller_terms(plan))).with_terms(read).terms)


def npu_footprint(plan: Plan) -> Footprint:
    """What lies in the memory that an NPU addresses: the weights as they are stored, the state, the activations."""
    size = plan.memory.stored_bytes(plan.shape.network, plan.spec)
    weights = Term("weights", size, "anonymous", ALL, "as they are stored", "the model's dimensions")
    return Footprint((weights, *working_terms(plan)))


def working_terms(plan: Plan) -> tuple[Term, ...]:
    """What grows with the context: state and activations."""
    return _marked(plan, plan.memory.working(plan.shape.network, plan.spec))


def _in_order(terms: Iterable[Term]) -> Footprint:
    return Footprint(tuple(sorted(terms, key=lambda term: _ORDER.index(term.name))))


def _marked(plan: Plan, terms: Iterable[Term]) -> tuple[Term, ...]:
    """The terms, as assumptions if the layers are."""
    if plan.shape.exact:
        return tuple(terms)
    return tuple(term if plan.shape.keeps and term.name == "state" else replace(term, assumed=True) for term in terms)


def _caller_terms(plan: Plan) -> tuple[Term, ...]:
    """What whoever runs the export holds beside it."""
    vocabulary = int(plan.shape.config.vocab_size or 0)
    formula = f"2 × {count(vocabulary)} × 4 bytes"
    terms = [Term("logits", 2 * vocabulary * 4, "anonymous", RUNNING, formula, "a row and a copy")]
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
