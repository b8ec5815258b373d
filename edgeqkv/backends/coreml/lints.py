"""What is known to go wrong on Apple's side, looked for before it does.

The limits of the Neural Engine come from public reports; none of them is documented.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Final

from edgeqkv.backends.coreml.weights import LARGEST_DIMENSION
from edgeqkv.bundle.manifest import StateTensor
from edgeqkv.errors import BundleError, UnsupportedError
from edgeqkv.mil import Package
from edgeqkv.mil.package import Function
from edgeqkv.model.model import Model

__all__ = [
    "check_dimensions",
    "check_encoder_dimensions",
    "check_saved_names",
    "check_saved_states",
    "state_warnings",
    "token_warnings",
]

_STATE_MULTIPLE: Final = 32
"""https://github.com/apple/coremltools/issues/2631"""

_ROW_TOKENS: Final = 32
"""Numbers of fp16 in 64 bytes, to which the Neural Engine pads a tensor's last dimension
(https://machinelearning.apple.com/research/neural-engine-transformers)."""

_NOTABLE: Final = 1.5
"""How many times more memory padding has to take before it is worth a word."""

_IDENTIFIER: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def check_dimensions(model: Model) -> None:
    """Refuse what does not fit the Neural Engine, but for the vocabulary, which is split.

    Raises:
        UnsupportedError: a dimension is too large; the message names it.
    """
    _refuse_large(_dimensions(model))


def check_encoder_dimensions(model: Model) -> None:
    """As `check_dimensions`, for an encoder, of which nothing is split.

    Raises:
        UnsupportedError: a dimension is too large; the message names it.
    """
    _refuse_large(_encoder_dimensions(model))


def _refuse_large(dimensions: Iterable[tuple[str, int]]) -> None:
    for name, size in dimensions:
        if size > LARGEST_DIMENSION:
            raise UnsupportedError(
                f"{name} is {size}: the Neural Engine takes no dimension above {LARGEST_DIMENSION}, and the conv forms "
                f"are for it. Export it with --form linear, for the GPU"
            )


def _dimensions(model: Model) -> Iterator[tuple[str, int]]:
    network = model.network
    yield "the context", model.config.positions
    yield "the hidden size", model.config.hidden_size
    for weight in model.weights:
        if weight not in (*network.token_tables, network.position_table):
            yield from ((f"a dimension of '{weight.name}'", size) for size in weight.shape)


def _encoder_dimensions(model: Model) -> Iterator[tuple[str, int]]:
    yield "the number of tokens", model.config.tokens
    yield from (("a dimension of the input", size) for size in model.config.input.shape)
    for weight in model.weights:
        yield from ((f"a dimension of '{weight.name}'", size) for size in weight.shape)


def token_warnings(tokens: int) -> list[str]:
    """What to tell a user whose model has so few tokens that the Neural Engine pads its activations to much more."""
    padded = -(-tokens // _ROW_TOKENS) * _ROW_TOKENS
    if padded < _NOTABLE * tokens:
        return []
    return [
        f"the model has {tokens} tokens, and the Neural Engine pads them to {padded}: activations take "
        f"{padded / tokens:.1f} × the memory there, and some of the work is for nothing"
    ]


def state_warnings(states: tuple[StateTensor, ...]) -> list[str]:
    """What to tell a user whose state the Neural Engine is said not to take.

    Only the two inner dimensions count, which it lays out in rows. Padding would not help a model whose head
    dimension is odd: every product with the state would have to be padded as well.
    """
    names = ("context", "head dimension")
    return [
        f"the {name} of the state '{tensor.name}' is {size}, not a multiple of {_STATE_MULTIPLE}: the Neural Engine is "
        f"reported to fail on such a state. Load the package with the compute units .cpuAndGPU"
        for tensor in states
        for name, size in zip(names, tensor.shape[-2:], strict=True)
        if size % _STATE_MULTIPLE
    ]


def check_saved_states(package: Package, states: tuple[StateTensor, ...]) -> None:
    """See that every function of a saved package declares every state, and reads and writes it.

    Rewriting has been seen to lose states (https://github.com/apple/coremltools/issues/2278).

    Raises:
        BundleError: a function does not.
    """
    for function in package.functions.values():
        for tensor in states:
            declared = function.states.get(tensor.name)
            if declared is None or (declared.dtype, declared.shape) != (tensor.dtype, tensor.shape):
                raise BundleError(
                    f"function '{function.name}' of {package.path.name} has lost the state '{tensor.name}' "
                    f"({tensor.dtype}{list(tensor.shape)}): it declares {declared or 'no such state'}"
                )
            for kind in ("read_state", "write_state"):
                if tensor.name not in _states_of(function, kind):
                    raise BundleError(
                        f"function '{function.name}' of {package.path.name} declares the state '{tensor.name}' "
                        f"but has no {kind} of it"
                    )


def check_saved_names(package: Package) -> None:
    """See that every value has a name of its own, which Apple's compiler can read.

    coremltools leaves names as they are in programs without a function called "main".

    Raises:
        BundleError: a name is no identifier, or is given twice.
    """
    for function in package.functions.values():
        names = [*function.inputs, *function.states, *(name for op in function.operations for name in op.outputs)]
        wrong = [name for name in names if not _IDENTIFIER.fullmatch(name)]
        twice = [name for name, count in Counter(names).items() if count > 1]
        if wrong or twice:
            raise BundleError(f"function '{function.name}' of {package.path.name} has bad names: {wrong + twice}")


def _states_of(function: Function, kind: str) -> set[str]:
    return {op.inputs["input"][0].name for op in function.operations if op.type == kind}
