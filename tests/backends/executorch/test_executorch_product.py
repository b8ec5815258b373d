"""A product of quantized weights as torch.export sees it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode

from edgeqkv.backends.executorch import TARGET
from edgeqkv.backends.executorch.quantized import _rounded, product_parts, quantized_product
from edgeqkv.model.weights import QuantizedWeight, Weight
from edgeqkv.quantize.activations import as_multiplied
from edgeqkv.quantize.nearest import rounded


class Calls(TorchFunctionMode):
    """Every function of torch's that is called, as torch.export takes them down."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(getattr(func, "__name__", str(func)))
        return func(*args, **kwargs or {})


@pytest.mark.parametrize("weights", ["int8", "int4"])
def test_it_does_not_split_the_graph(weights: str) -> None:
    """Where gradients are switched, torch.export cuts the graph, and its time grows with the square of the cuts."""
    scheme = replace(TARGET.schemes[weights], block=32 if weights == "int4" else 64)
    weight = rounded(Weight("w", torch.randn(4, 64)), scheme)
    assert isinstance(weight, QuantizedWeight)
    with torch.no_grad(), Calls() as calls:
        quantized_product(torch.randn(3, 64), weight, product_parts(weight).__getitem__, None)
    assert "linear" in calls.names
    assert not [name for name in calls.names if "grad_enabled" in name]


def test_inputs_are_rounded_as_calibration_and_tuning_take_it() -> None:
    x = torch.randn(64, 96) * torch.logspace(-3, 3, 64)[:, None] + torch.linspace(-2, 2, 64)[:, None]
    x[3], x[4] = 0.0, x[4].abs()
    ours = as_multiplied(x, TARGET.schemes["int4"])
    step = (x.amax(1).clamp(min=0) - x.amin(1).clamp(max=0)) / 255
    # The same but where a number lies on the edge between two codes.
    differ = (ours - _rounded(x)).abs() > 1e-4 * step[:, None]
    assert int(differ.sum()) <= 2
