"""The forms that a package can have: how it computes, and how it is called."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from edgeqkv.backends.coreml.layouts import ConvLayout, Layout, LinearLayout
from edgeqkv.backends.coreml.mil import Var
from edgeqkv.backends.coreml.names import PACKAGE
from edgeqkv.backends.coreml.signatures import CountSignature, GraphSignature, MaskSignature, PositionSignature
from edgeqkv.backends.coreml.states import OnehotUpdate, SliceUpdate, Update
from edgeqkv.backends.coreml.weights import WeightPool
from edgeqkv.backends.target import TargetSpec
from edgeqkv.bundle.manifest import Graph, TensorSpec

__all__ = ["FORMS", "Form", "Interface"]

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Interface:
    """How the functions of a package are called.

    Attributes:
        graphs: the functions, for a request and a vocabulary. Each has two inputs: the tokens, and what says
            where they stand.
        signature: what a function knows of a call, from these two inputs, the most tokens and the context.
        states: the name of the state in each role; of further ones of a role, where layers differ, it is followed by a
            number.
        several: whether there may be further ones.
        placeholders: states that must be there, and their shapes if nothing is kept in them.
        ranges: the least and greatest size of each dimension that varies, by its name, for a context.
    """

    graphs: Callable[[TargetSpec, int], tuple[Graph, ...]]
    signature: Callable[[Var, Var, int, int], GraphSignature]
    states: dict[str, str]
    several: bool
    placeholders: dict[str, Shape]
    ranges: Callable[[int], dict[str, tuple[int, int]]]


@dataclass(frozen=True)
class Form:
    """What a form is put together from."""

    layout: Callable[[WeightPool], Layout]
    update: Callable[[], Update]
    interface: Interface


def _fixed_graphs(spec: TargetSpec, vocab_size: int) -> tuple[Graph, ...]:
    """Prefill of exactly one chunk and decode of one token; decode alone where chunks are single tokens."""
    chunk = int(spec.chunk or 1)
    sizes = {"prefill": chunk, "decode": 1} if chunk > 1 else {"decode": 1}
    return tuple(
        Graph(
            name=name,
            file=PACKAGE,
            tokens=tokens,
            fixed=True,
            window=spec.context,
            inputs=(
                TensorSpec(name="input_ids", dtype="int32", shape=(1, tokens), role="tokens"),
                TensorSpec(name="position", dtype="int32", shape=(1,), role="start"),
            ),
            outputs=(TensorSpec(name="logits", dtype="fp16", shape=(1, vocab_size), role="logits"),),
        )
        for name, tokens in sizes.items()
    )


def _runner_graphs(mask: TensorSpec) -> Callable[[TargetSpec, int], tuple[Graph, ...]]:
    """One function for a prompt of any length and for single tokens, which gives every token's logits."""

    def graphs(spec: TargetSpec, vocab_size: int) -> tuple[Graph, ...]:
        ids = TensorSpec(name="inputIds", dtype="int32", shape=(1, "tokens"), role="tokens")
        logits = TensorSpec(name="logits", dtype="fp16", shape=(1, "tokens", vocab_size), role="logits")
        return (
            Graph(
                name="main",
                file=PACKAGE,
                tokens=int(spec.context or 0),
                fixed=False,
                inputs=(ids, mask),
                outputs=(logits,),
            ),
        )

    return graphs


def _runner(mask: TensorSpec, signature: Callable[[Var, Var, int, int], GraphSignature]) -> Interface:
    """swift-transformers' runner, which insists on two states; a merged model leaves the second empty."""
    return Interface(
        graphs=_runner_graphs(mask),
        signature=signature,
        states={"kv": "keyCache", "k": "keyCache", "v": "valueCache"},
        several=False,
        placeholders={"valueCache": (1, 1, 1, 1)},
        ranges=lambda context: {"tokens": (1, context), "end": (1, context), "end + 1": (2, context + 1)},
    )


_OWN: Final = Interface(
    graphs=_fixed_graphs,
    signature=lambda _, position, tokens, context: PositionSignature(position, tokens, context),
    states={"kv": "kv_cache", "k": "k_cache", "v": "v_cache"},
    several=True,
    placeholders={},
    ranges=lambda _: {},
)
_MASK_RUNNER: Final = _runner(
    TensorSpec(name="fullAttentionMask", dtype="fp16", shape=(1, 1, "tokens", "end"), role="mask"),
    lambda _, mask, *__: MaskSignature(mask),
)
_COUNT_RUNNER: Final = _runner(
    TensorSpec(name="causalMask", dtype="fp16", shape=(1, 1, 1, "end + 1"), role="length"),
    lambda tokens, zeros, *_: CountSignature(tokens, zeros),
)

FORMS: Final = {
    "linear": Form(LinearLayout, SliceUpdate, _OWN),
    "linear-onehot": Form(LinearLayout, OnehotUpdate, _OWN),
    "conv": Form(ConvLayout, OnehotUpdate, _OWN),
    "conv-slice": Form(ConvLayout, SliceUpdate, _OWN),
    "swift-transformers": Form(LinearLayout, SliceUpdate, _MASK_RUNNER),
    "swift-transformers-1": Form(LinearLayout, SliceUpdate, _COUNT_RUNNER),
}
"""What `edgeqkv.backends.coreml.CoreMLTarget.forms` describes."""
