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
from edgeqkv.model.architectures.decoder import Decoder
from edgeqkv.model.model import EncoderModel, Model
from edgeqkv.model.weights import PRECISIONS, Palette, Scheme, Weight
from edgeqkv.progress import Report, silent
from edgeqkv.quantize.nearest import rounded

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

__all__ = ["PALETTES", "SCHEMES", "Recipe", "apply", "apply_to_encoder", "matrices", "tuning_steps"]

SCHEMES: Final = {
    "int8": Scheme("int8", bits=8, block=128),
    "int4": Scheme("int4", bits=4, block=32),
}
"""Block sizes are the runtimes' common ground: ONNX Runtime's MatMulNBits and Core ML's blockwise scales take both."""

PALETTES: Final = {"lut4": Palette("lut4", bits=4, rows=16)}
"""16 rows to a table: on the demo model a table is then 1 part in 32 of the codes that look into it."""

_SMALLEST_BLOCK = 16  # of MatMulNBits

_TUNING_STEPS, _MOST_TUNED_PARAMETERS = 300, 10_000_000

_REST = "fp16"  # what a scheme leaves alone


@dataclass(frozen=True)
class Recipe:
    """What to do to a model's weights.

    Attributes:
        weights: ``fp32``, ``fp16`` or a key of `SCHEMES` or `PALETTES`.
        head: the precision of the token table and the head, if it is to differ.
        calibration: token ids ``[sequences, length]`` on which to calibrate; None: round to nearest.
        tuning: steps of tuning after the calibration (`edgeqkv.quantize.tuned`).
    """

    weights: str
    head: str | None = None
    calibration: npt.NDArray[np.int64] | None = None
    tuning: int = 0

    @property
    def quantizes(self) -> bool:
        """Whether it asks for integers, or for two precisions."""
        return self.weights not in PRECISIONS or self.head not in (None, self.weights)

    @property
    def method(self) -> str:
        """How it is done, for the record."""
        if self.calibration is None:
            return "nearest"
        return "gptq+tuned" if self.tuning else "gptq"


def tuning_steps(model: Model, weights: str) -> int:
    """How many steps of tuning pay off without being asked for.

    None at 8 bits, where calibration leaves nothing to gain, and none where they would take long: at the most
    parameters that are tuned so, a quarter of an hour on one core.
    """
    return _TUNING_STEPS if weights in ("int4", "lut4") and model.parameters <= _MOST_TUNED_PARAMETERS else 0


def apply(model: Model, recipe: Recipe, report: Report = silent) -> Model:
    """The model with its weights as the recipe says.

    Raises:
        UnsupportedError: a precision is unknown, or the model's shape does not divide into blocks.
    """
    _check_known(recipe.weights, recipe.head)
    if not recipe.quantizes:
        return model.with_weights(recipe.weights)
    plan = _plan(model, recipe)
    if recipe.calibration is not None:
        from edgeqkv.quantize.calibrated import calibrate

        calibrated = calibrate(model, plan, recipe.calibration, report)
        if not recipe.tuning:
            return calibrated
        from edgeqkv.quantize.tuned import tune

        return tune(model, calibrated, recipe.calibration, recipe.tuning, report)
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
        known = (*PRECISIONS, *SCHEMES, *PALETTES)
        if precision not in known:
            raise UnsupportedError(f"weights '{precision}' are unknown; edgeqkv knows {', '.join(known)}")


def _rounding(plan: dict[Weight, Scheme | Palette | str], report: Report) -> Callable[[Weight], Weight]:
    """What stores each weight as the plan has it, rounded to nearest."""
    done = 0

    def change(weight: Weight) -> Weight:
        nonlocal done
        report("quantizing", done / len(plan))
        done += 1
        chosen = plan[weight]
        if isinstance(chosen, str):
            return weight.with_precision(chosen)
        quantized = rounded(weight, chosen)
        weight.release_pages()
        return quantized

    return change


def matrices(network: Decoder) -> tuple[Weight, ...]:
    """The matrices of the linear layers, each once."""
    return tuple(dict.fromkeys(linear.weight for block in network.blocks for linear in block.linears))


def _plan(model: Model, recipe: Recipe) -> dict[Weight, Scheme | Palette | str]:
    """What becomes of each weight: a scheme whose block fits its columns, or a floating-point precision."""
    network = model.network
    wanted = dict.fromkeys(model.weights, _REST)
    wanted |= dict.fromkeys(matrices(network), recipe.weights)
    wanted |= dict.fromkeys((network.token_table, network.head), recipe.head or recipe.weights)
    return {weight: _fitted(weight, precision) for weight, precision in wanted.items()}


def _fits(weight: Weight, precision: str) -> bool:
    if precision not in SCHEMES:
        return True
    return gcd(SCHEMES[precision].block, weight.shape[1]) >= _SMALLEST_BLOCK


def _fitted(weight: Weight, precision: str) -> Scheme | Palette | str:
    if precision in PRECISIONS:
        return precision
    if precision in PALETTES:
        palette = PALETTES[precision]
        return replace(palette, rows=gcd(palette.rows, weight.shape[0]))
    scheme = SCHEMES[precision]
    if not _fits(weight, precision):
        raise UnsupportedError(
            f"'{weight.name}' has {weight.shape[1]} columns, which do not divide into blocks of {_SMALLEST_BLOCK} or "
            f"more; use weights fp16 or fp32"
        )
    return replace(scheme, block=gcd(scheme.block, weight.shape[1]))
