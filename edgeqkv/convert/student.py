"""A model that learns, and the one that it learns from, where an accelerator computes."""

from __future__ import annotations

import torch

from edgeqkv.convert.rounding import Rounding, ValuesOps
from edgeqkv.model.model import Model
from edgeqkv.model.weights import Weight
from edgeqkv.reference.ops import TorchOps

__all__ = ["Student", "Teacher", "named"]

Tensor = torch.Tensor


class Student(torch.nn.Module):
    """A model whose weights are parameters, each distinct one once.

    All of them are this module's own, so that whoever shards or copies modules takes them as one unit, and what the
    model computes stays stated in one place.
    """

    def __init__(self, model: Model, rounding: Rounding | None = None) -> None:
        super().__init__()
        self._model = model
        self._schemes = {} if rounding is None else rounding.schemes(model)
        self._state = "fp32" if rounding is None else rounding.state
        self.numbers = torch.nn.ParameterList(weight.values().clone().detach() for weight in model.weights)

    def forward(self, windows: Tensor) -> Tensor:
        """Token ids ``[batch, length]`` → logits ``[batch, length, vocabulary]``."""
        with windows.device:  # positions and masks are made on the way
            ops = ValuesOps(dict(zip(self._model.weights, self.numbers, strict=True)), self._schemes, self._state)
            logits: Tensor = self._model.network.outputs(ops, windows)
        return logits


def named(model: Model) -> dict[str, Weight]:
    """The weights by the names of a `Student`'s parameters."""
    return {f"numbers.{index}": weight for index, weight in enumerate(model.weights)}


class Teacher:
    """A model as it is, on a device: 4 bytes there for each of its numbers, none where the device is the CPU."""

    def __init__(self, model: Model, device: torch.device) -> None:
        self._model = model
        self._ops = (
            TorchOps()
            if device.type == "cpu"
            else ValuesOps({weight: weight.values().to(device) for weight in model.weights})
        )

    @torch.no_grad()
    def __call__(self, windows: Tensor) -> Tensor:
        """As `Student.forward`."""
        with windows.device:
            logits: Tensor = self._model.network.outputs(self._ops, windows)
        return logits
