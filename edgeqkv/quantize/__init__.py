"""Quantization: a model in, the same model with integer matrices out.

The integers are computed once, here; every backend stores the same ones where its format allows, and the torch
interpreter on the quantized model (`Weight.values`) is the reference for all of them.

What is quantized: the matrices of the linear layers, and the token table with the head, which stay one tensor where
they are tied. What is not (position table, biases, normalization) is stored in fp16: a part in a hundred of the size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import gcd
from typing import TYPE_CHECKING, Final

from edgeqkv.errors import UnsupportedError
from edgeqkv.model import EncoderModel, Model
from edgeqkv.models.decoder import Decoder
from edgeqkv.progress import Report, silent
from edgeqkv.quantize.nearest import nearest
from edgeqkv.weights import PRECISIONS, Scheme, Weight

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

__all__ = ["SCHEMES", "Recipe", "apply", "apply_to_encoder", "matrices"]

SCHEMES: Final = {
    "int8": Scheme("int8", bits=8, block=128),
    "int4": Scheme("int4", bits=4, block=32),
}
"""Block sizes are the runtimes' common ground: ONNX Runtime's MatMulNBits and Core ML's blockwise scales take both."""

_SMALLEST_BLOCK = 16  # of MatMulNBits

_REST = "fp16"  # what a scheme leaves alone


@dataclass(frozen=True)
class Recipe:
    """What to do to a model's weights.

    Attributes:
        weights: ``fp32``, ``fp16`` or a key of `SCHEMES`.
        head: the precision of the token table and the head, if it is to differ.
        calibration: token ids ``[sequences, length]`` on which to calibrate; None: round to nearest.
    """

    weights: str
    head: str | None = None
    calibration: npt.NDArray[np.int64] | None = None


def apply(model: Model, recipe: Recipe, report: Report = silent) -> Model:
    """The model with its weights as the recipe says.

    Raises:
        UnsupportedError: a precision is unknown, or the model's shape does not divide into blocks.
    """
    _check_known(recipe.weights, recipe.head)
    if recipe.weights in PRECISIONS and recipe.head in (None, recipe.weights):
        return model.with_weights(recipe.weights)
    plan = _plan(model, recipe)
    if recipe.calibration is not None:
        from edgeqkv.quantize.calibrated import calibrate

        return calibrate(model, plan, recipe.calibration, report)
    return model.with_changed_weights(_rounding(plan, report))


def apply_to_encoder(
    model: EncoderModel, weights: str, head: str | None = None, report: Report = silent
) -> EncoderModel:
    """An encoder with its matrices stored in ``weights``, and that of its head in ``head`` if it is to differ.

    A matrix with so few columns that no block fits, such as one that reads small patches, is left in fp16, as all is
    that is no matrix.

    Raises:
        UnsupportedError: a precision is unknown.
    """
    _check_known(weights, head)
    if weights in PRECISIONS and head in (None, weights):
        return model.with_weights(weights)
    network = model.network
    linears = (*(linear for block in network.trunk.blocks for linear in block.linears), *network.surroundings)
    wanted = dict.fromkeys(model.weights, weights if weights in PRECISIONS else _REST)
    wanted |= dict.fromkeys((linear.weight for linear in linears), weights)
    wanted |= {network.surroundings[-1].weight: head or weights}
    plan = {
        weight: _fitted(weight, precision) if _fits(weight, precision) else _REST
        for weight, precision in wanted.items()
    }
    return model.with_changed_weights(_rounding(plan, report))


def _check_known(*precisions: str | None) -> None:
    for precision in filter(None, precisions):
        if precision not in PRECISIONS and precision not in SCHEMES:
            known = ", ".join((*PRECISIONS, *SCHEMES))
            raise UnsupportedError(f"weights '{precision}' are unknown; edgeqkv knows {known}")


def _rounding(plan: dict[Weight, Scheme | str], report: Report) -> Callable[[Weight], Weight]:
    """What stores each weight as the plan has it, rounded to nearest."""
    done = 0

    def change(weight: Weight) -> Weight:
        nonlocal done
        report("quantizing", done / len(plan))
        done += 1
        chosen = plan[weight]
        if isinstance(chosen, str):
            return weight.with_precision(chosen)
        quantized = nearest(weight, chosen)
        weight.release_pages()
        return quantized

    return change


def matrices(network: Decoder) -> tuple[Weight, ...]:
    """The matrices of the linear layers, each once."""
    return tuple(dict.fromkeys(linear.weight for block in network.blocks for linear in block.linears))


def _plan(model: Model, recipe: Recipe) -> dict[Weight, Scheme | str]:
    """What becomes of each weight: a scheme whose block fits its columns, or a floating-point precision."""
    network = model.network
    wanted = dict.fromkeys(model.weights, _REST)
    wanted |= dict.fromkeys(matrices(network), recipe.weights)
    wanted |= dict.fromkeys((network.token_table, network.head), recipe.head or recipe.weights)
    return {weight: _fitted(weight, precision) for weight, precision in wanted.items()}


def _fits(weight: Weight, precision: str) -> bool:
    return precision in PRECISIONS or gcd(SCHEMES[precision].block, weight.shape[1]) >= _SMALLEST_BLOCK


def _fitted(weight: Weight, precision: str) -> Scheme | str:
    if precision in PRECISIONS:
        return precision
    scheme = SCHEMES[precision]
    if not _fits(weight, precision):
        raise UnsupportedError(
            f"'{weight.name}' has {weight.shape[1]} columns, which do not divide into blocks of {_SMALLEST_BLOCK} or "
            f"more; use weights fp16 or fp32"
        )
    return replace(scheme, block=gcd(scheme.block, weight.shape[1]))
