"""Quantization: a model in, the same model with integer matrices out.

The integers are computed once, here, in the schemes that the target has; a backend stores them as they are, and the
torch interpreter on the quantized model (`Weight.values`) is the reference for all of them.

What is quantized: the matrices of the linear layers, and the token table with the head, which stay one tensor where
they are tied. What is not (position table, biases, normalization) is stored in fp16: a part in a hundred of the size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from math import gcd
from typing import TYPE_CHECKING, Final

from edgeqkv.errors import UnsupportedError
from edgeqkv.model import walk
from edgeqkv.model.layers import Linear
from edgeqkv.model.model import Model
from edgeqkv.model.schemes import INT4, INT8, LUT4, ROW, Palette, Scheme
from edgeqkv.model.weights import Weight
from edgeqkv.progress import Progress, silent
from edgeqkv.quantize.nearest import rounded

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

__all__ = ["SCHEMES", "QuantConfig", "Schemes", "apply", "tuning_steps"]

Schemes = Mapping[str, Scheme | Palette | None]
"""Precision → how a matrix is stored in it; None: in floating point."""

SCHEMES: Final[Schemes] = {"fp32": None, "fp16": None, "int8": INT8, "int4": INT4, "lut4": LUT4}
"""All precisions, in the schemes that most targets share."""

_TUNING_STEPS, _MOST_TUNED_PARAMETERS = 300, 10_000_000

_REST: Final = "fp16"  # what a scheme leaves alone


@dataclass(frozen=True)
class QuantConfig:
    """What to do to a model's weights.

    Attributes:
        weights: the precision of its matrices, a key of ``schemes``.
        head: the precision of the token table and the head, if it is to differ.
        calibration: token ids ``[sequences, length]`` on which to calibrate; None: round to nearest.
        tuning: steps of tuning after the calibration (`edgeqkv.quantize.tuned`).
        schemes: the target's (`edgeqkv.backends.target.Target.schemes`).
    """

    weights: str
    head: str | None = None
    calibration: npt.NDArray[np.int64] | None = None
    tuning: int = 0
    schemes: Schemes = field(default_factory=lambda: SCHEMES)

    @property
    def quantizes(self) -> bool:
        """Whether it asks for integers, or for two precisions."""
        return self.schemes.get(self.weights) is not None or self.head not in (None, self.weights)

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


def apply(model: Model, config: QuantConfig, on_progress: Progress = silent) -> Model:
    """The model with its weights as the config says.

    A matrix outside an encoder's blocks with so few columns that no block fits, such as one that reads small patches,
    is left in fp16, as all is that is no matrix.

    Raises:
        UnsupportedError: a precision is unknown, or the model's shape does not divide into blocks.
    """
    for precision in filter(None, (config.weights, config.head)):
        if precision not in config.schemes:
            raise UnsupportedError(f"weights '{precision}' are unknown; known are {', '.join(config.schemes)}")
    if not config.quantizes:
        return model.with_weights(config.weights)
    plan = _plan(model, config)
    if config.calibration is not None:
        from edgeqkv.quantize.calibrated import calibrate

        calibrated = calibrate(model, plan, config.calibration, on_progress)
        if not config.tuning:
            return calibrated
        from edgeqkv.quantize.tuned import tune

        return tune(model, calibrated, config.calibration, config.tuning, on_progress)
    return model.with_changed_weights(_rounding(plan, on_progress))


def _plan(model: Model, config: QuantConfig) -> dict[Weight, Scheme | Palette | str]:
    """What becomes of each weight: a scheme whose block fits its columns, or a floating-point precision."""
    network, rest = model.network, config.weights if config.schemes[config.weights] is None else _REST
    wanted = dict.fromkeys(model.weights, rest)
    wanted |= dict.fromkeys((linear.weight for linear in walk.linears(network)), config.weights)
    if isinstance(network.head, Linear):
        wanted[network.head.weight] = config.head or config.weights
    else:
        wanted |= dict.fromkeys(network.token_tables, config.head or config.weights)
    inside = {linear.weight for linear in walk.linears(network.blocks)}
    plan: dict[Weight, Scheme | Palette | str] = {}
    for weight, precision in wanted.items():
        scheme = config.schemes.get(precision)
        if scheme is None:
            plan[weight] = precision
        elif isinstance(scheme, Palette):
            plan[weight] = replace(scheme, rows=gcd(scheme.rows, weight.shape[0]))
        elif (block := _block(scheme, weight.shape[1])) >= scheme.smallest:
            plan[weight] = replace(scheme, block=block)
        elif not model.causal and weight not in inside:
            plan[weight] = rest
        else:
            raise UnsupportedError(
                f"'{weight.name}' has {weight.shape[1]} columns, which do not divide into blocks of {scheme.smallest} "
                f"or more, as {precision} needs them; use weights {_instead(config.schemes, precision)}"
            )
    return plan


def _block(scheme: Scheme, columns: int) -> int:
    return columns if scheme.block == ROW else gcd(scheme.block, columns)


def _instead(schemes: Schemes, precision: str) -> str:
    """What a matrix of any shape can be stored in."""
    return " or ".join(
        name
        for name, scheme in schemes.items()
        if name != precision and (scheme is None or (isinstance(scheme, Scheme) and scheme.block == ROW))
    )


def _rounding(plan: Mapping[Weight, Scheme | Palette | str], on_progress: Progress) -> Callable[[Weight], Weight]:
    """What stores each weight as the plan has it, rounded to nearest."""
    done = 0

    def change(weight: Weight) -> Weight:
        nonlocal done
        on_progress("quantizing", done / len(plan))
        done += 1
        chosen = plan[weight]
        if isinstance(chosen, str):
            return weight.with_precision(chosen)
        quantized = rounded(weight, chosen)
        weight.release_pages()
        return quantized

    return change
