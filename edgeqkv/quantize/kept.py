"""Calibrated weights in a file beside a bundle's place, so that an export that comes to nothing can be tried again.

Calibrating and tuning take minutes, or hours; what is asked for afterwards (how much worse a text may become, which
form of a graph) does not change their result. The file is removed once there is a bundle.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt
import torch

from edgeqkv.arrays import read_arrays
from edgeqkv.disk.files import check_place, written_beside
from edgeqkv.errors import InputError, VerificationFailed
from edgeqkv.model.model import Model
from edgeqkv.model.schemes import Palette, Scheme
from edgeqkv.model.weights import PalettizedWeight, QuantizedWeight, Weight
from edgeqkv.quantize import QuantConfig

__all__ = ["Kept", "place"]

_MARK: Final = b"edgeqkv.quantized"
"""The name of the file's first array, which stands in its first bytes: by it a file is known to be ours."""

_SAMPLED: Final = 4096  # numbers at either end of a tensor, by which it is recognized


def place(out: Path) -> Path:
    """Where the weights of what is to be the bundle ``out`` are kept."""
    out = out.resolve() if out.name in ("", "..") else out
    return out.with_name(f"{out.name}.quantized.npz")


class Kept:
    """The file of one export. It stays if the block ends because a check failed or somebody stopped it.

    Args:
        out: the bundle's place.
        resume: whether to take what a try before kept.

    Raises:
        InputError: it is to be taken, and there is none or it cannot be read.
    """

    def __init__(self, out: Path, *, resume: bool) -> None:
        self.path = place(out)
        self._resume = resume
        self._arrays: dict[str, npt.NDArray[Any]] = {}
        self._written = self._taken = False
        if resume:
            if not self.path.exists():
                raise InputError(f"there is no {self.path} to resume from; leave out --resume")
            self._arrays = read_arrays(self.path, "kept weights")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        to_be_tried_again = kind is not None and (
            issubclass(kind, VerificationFailed) or not issubclass(kind, Exception)
        )
        if (self._written and not to_be_tried_again) or (self._resume and kind is None):
            self.path.unlink(missing_ok=True)

    @property
    def told(self) -> str:
        """What people should know after a failure: a sentence, or nothing."""
        if not (self._written or self._resume):
            return ""
        return f"The calibrated weights are kept in {self.path}: the same command with --resume starts from them"

    def take(self, model: Model, config: QuantConfig) -> Model | None:
        """The model with the weights that were kept of this config; None if it is not to resume, or if the try before
        had not come so far: it kept those of a config before this one.

        Raises:
            InputError: what was kept is of another model, text or precision, or damaged.
        """
        if not self._resume:
            return None
        key = _key(model, config)
        if f"{key}.0.tensor" not in self._arrays and f"{key}.0.codes" not in self._arrays:
            if self._taken:
                return None
            raise InputError(
                f"{self.path} was kept of another model, calibration text, precision, tuning or version of edgeqkv; "
                f"give the options of the export that kept it, or leave out --resume"
            )
        numbers = {weight: index for index, weight in enumerate(model.weights)}
        try:
            taken = model.with_changed_weights(lambda weight: self._weight(f"{key}.{numbers[weight]}", weight))
        except (LookupError, ValueError, ArithmeticError, RuntimeError, TypeError) as error:
            raise InputError(f"{self.path} is damaged ({error}); leave out --resume") from error
        self._taken = True
        return taken

    def keep(self, model: Model, config: QuantConfig, quantized: Model) -> None:
        """Write what became of a model's weights, beside what was kept before."""
        key = _key(model, config)
        for index, weight in enumerate(quantized.weights):
            self._arrays |= {f"{key}.{index}.{name}": array for name, array in _arrays(weight)}
        check_place(self.path.absolute(), _MARK)
        with written_beside(self.path.absolute()) as new, new.open("wb") as file:
            content: dict[str, Any] = {_MARK.decode(): np.zeros(0, np.int8), **self._arrays}
            np.savez(file, **content)
        self._written = True

    def _weight(self, name: str, weight: Weight) -> Weight:
        found = {
            part: torch.from_numpy(self._arrays[f"{name}.{part}"])
            for part in _PARTS
            if f"{name}.{part}" in self._arrays
        }
        if "tensor" in found:
            _check(found["tensor"], weight.shape, torch.float32, weight.name)
            precision = bytes(found["precision"].numpy()).decode()
            return replace(weight, tensor=found["tensor"], precision=precision)
        scheme = json.loads(bytes(found["scheme"].numpy()))
        if "tables" in found:
            palette = Palette(**scheme)
            _check(found["codes"], weight.shape, torch.uint8, weight.name)
            _check(found["tables"], (weight.shape[0] // palette.rows, palette.entries), torch.float32, weight.name)
            return PalettizedWeight(
                weight.name, weight.tensor, palette.name, codes=found["codes"], tables=found["tables"], palette=palette
            )
        whole = Scheme(**scheme | {"blocks": tuple(scheme["blocks"])})
        _check(found["codes"], weight.shape, torch.int8, weight.name)
        blocks = (weight.shape[0], weight.shape[1] // whole.block)
        _check(found["scales"], blocks, torch.float32, weight.name)
        return QuantizedWeight(
            weight.name, weight.tensor, whole.name, codes=found["codes"], scales=found["scales"], scheme=whole
        )


def _check(tensor: torch.Tensor, shape: tuple[int, ...], dtype: torch.dtype, name: str) -> None:
    """Raise `ValueError` where it is of another shape or type."""
    if tuple(tensor.shape) != shape or tensor.dtype != dtype:
        raise ValueError(f"a part of {name} is {tensor.dtype}{list(tensor.shape)}, not {dtype}{list(shape)}")


_PARTS: Final = ("tensor", "precision", "codes", "scales", "tables", "scheme")


def _arrays(weight: Weight) -> Iterator[tuple[str, npt.NDArray[Any]]]:
    match weight:
        case QuantizedWeight():
            yield "codes", weight.codes.numpy()
            yield "scales", weight.scales.numpy()
            yield "scheme", _text(json.dumps(vars(weight.scheme)))
        case PalettizedWeight():
            yield "codes", weight.codes.numpy()
            yield "tables", weight.tables.numpy()
            yield "scheme", _text(json.dumps(vars(weight.palette)))
        case _:
            yield "tensor", weight.tensor.float().numpy()  # which has every number of the smaller types
            yield "precision", _text(weight.precision)


def _text(text: str) -> npt.NDArray[Any]:
    return np.frombuffer(text.encode(), np.uint8)


def _key(model: Model, config: QuantConfig) -> str:
    """What the weights depend on: the model's, the text's tokens, and what was asked for."""
    from edgeqkv.extras import installed_version

    digest = hashlib.sha256()
    for weight in model.weights:
        numbers = weight.tensor.reshape(-1)
        ends = torch.cat((numbers[:_SAMPLED], numbers[-_SAMPLED:])).float()
        digest.update(f"{weight.name}{tuple(weight.shape)}".encode() + ends.numpy().tobytes())
    assert config.calibration is not None, "only calibrated weights are kept"
    digest.update(np.ascontiguousarray(config.calibration).tobytes())
    asked = [config.weights, config.head, config.tuning, installed_version("edgeqkv")]
    schemes = [repr(config.schemes.get(name)) for name in (config.weights, config.head or config.weights)]
    digest.update(json.dumps([*asked, *schemes, list(config.calibration.shape)]).encode())
    return digest.hexdigest()[:16]
