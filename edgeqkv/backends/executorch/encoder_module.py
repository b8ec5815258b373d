"""The module that is exported for an encoder: its weights as parameters, one call for a whole batch."""

from __future__ import annotations

import torch

from edgeqkv.backends.executorch.module import WeightsModule
from edgeqkv.backends.executorch.ops import ExecuTorchOps
from edgeqkv.backends.executorch.quantized import product_parts
from edgeqkv.model import walk
from edgeqkv.model.model import Model
from edgeqkv.model.weights import QuantizedWeight, Weight

__all__ = ["EncoderModule"]

Tensor = torch.Tensor


class EncoderModule(WeightsModule):
    """``forward(inputs [batch, …]) → logits f32 [batch, …]`` (`EncoderConfig.output_shape`)."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.network = model.network
        self.output_shape = model.config.output_shape
        linears = walk.linears(self.network)
        self._matrices = {linear.weight for linear in linears}
        # A product computes in its matrix's type, and takes a bias of that; with a quantized matrix, of float32.
        self._biases = {linear.bias for linear in linears if not isinstance(linear.weight, QuantizedWeight)}
        self.hold(model.weights, self._parts)

    def _parts(self, weight: Weight) -> dict[str, Tensor]:
        if isinstance(weight, QuantizedWeight):
            return product_parts(weight)
        # Matrices take the room. What is added or multiplied element by element is float32, as the activations are.
        small = weight not in self._matrices and weight not in self._biases
        return {"": weight.values() if small else weight.stored()}

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.network.outputs(ExecuTorchOps(self.parameter_of), inputs)
        return outputs.reshape(inputs.shape[0], *self.output_shape)
