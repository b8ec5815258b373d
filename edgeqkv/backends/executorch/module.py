"""The module that is exported: a decoder's weights as parameters, its state as buffers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, Self, cast

import torch
from torch import nn

from edgeqkv.backends.executorch.ops import OPS, promise
from edgeqkv.backends.executorch.quantized import quantized_parts
from edgeqkv.backends.target import TargetSpec
from edgeqkv.model import walk
from edgeqkv.model.dtypes import Dtype
from edgeqkv.model.model import Model
from edgeqkv.model.weights import QuantizedWeight, Weight

__all__ = ["DecoderModule", "WeightsModule", "state_name", "state_of"]


def state_name(layer: int, role: str) -> str:
    """A state buffer's name, by which the file's memory plan calls it too."""
    return f"state_{layer}_{role}"


def state_of(name: str) -> tuple[int, str] | None:
    """The layer and role of a buffer that `state_name` named, or None."""
    match name.split("_"):
        case ["state", layer, role]:
            return int(layer), role
    return None


class WeightsModule(nn.Module):
    """A module that holds a model's weights as parameters.

    ``weights`` are those that the lowering reads, by the names of their parameters; of a quantized matrix, the part
    that a delegate takes. ``parts`` are all parameters: of which weight each is which part.
    """

    def __init__(self) -> None:
        super().__init__()
        self.weights: dict[str, Weight] = {}
        self.parts: dict[str, tuple[Weight, str]] = {}
        self._names: dict[Weight, str] = {}

    def hold(self, weights: Iterable[Weight], parts_of: Callable[[Weight], dict[str, torch.Tensor]]) -> None:
        """Register the parts of every weight, by name; one that is whole has a single part, without a name."""
        for index, weight in enumerate(weights):
            name = self._names[weight] = f"weight_{index}"
            parts = parts_of(weight)
            for part, tensor in parts.items():
                self.register_parameter(name + part, _Constant(_with_own_storage(tensor)))
                self.parts[name + part] = weight, part
            self.weights[name + ("codes" if "codes" in parts else min(parts))] = weight

    def parameter_of(self, weight: Weight, part: str) -> torch.Tensor:
        """The parameter that holds a weight, or the named part of it."""
        return self.get_parameter(self.name_of(weight, part))

    def name_of(self, weight: Weight, part: str) -> str:
        """What that parameter is called."""
        return self._names[weight] + part


class DecoderModule(WeightsModule):
    """``forward(tokens i64 [1, T], input_pos i64 [1]) → logits f32 [1, vocabulary]`` of the last token.

    The stock runners call a method of this signature, chunk by chunk and then token by token.

    Args:
        model: what is computed.
        spec: what is asked for.
        layers: of how many ``forward`` is made; weights and state of all of them are there. None: of all.
    """

    def __init__(self, model: Model, spec: TargetSpec, layers: int | None = None) -> None:
        super().__init__()
        self.blocks = model.network.blocks
        self.network = replace(model.network, blocks=self.blocks[:layers])
        self.state_scales = model.state_scales
        self.context = int(spec.context or 0)
        self.interpreter = OPS[spec.form]
        wide = _float32_weights(model)

        def parts(weight: Weight) -> dict[str, torch.Tensor]:
            if isinstance(weight, QuantizedWeight):
                return quantized_parts(weight, model.network)
            return {"": weight.values() if weight in wide else weight.stored()}

        self.hold(model.weights, parts)
        for each in model.state(self.context, spec.chunk or 1):
            shape = (1, each.length, each.kv_heads, each.dim)
            self.register_buffer(
                state_name(each.layer, each.role), torch.zeros(shape, dtype=Dtype(str(spec.state)).torch)
            )

    def forward(self, tokens: torch.Tensor, input_pos: torch.Tensor) -> torch.Tensor:
        position = cast("int", input_pos[0].item())
        promise(position >= 0)
        promise(position < self.context)
        promise(position + tokens.shape[1] <= self.context)
        ops = self.interpreter(position, self.context, self.parameter_of, self._state_of, self.state_scales)
        logits: torch.Tensor = self.network.outputs(ops, tokens[0])
        return logits

    def _state_of(self, layer: int, role: str) -> torch.Tensor:
        return self.get_buffer(state_name(layer, role))


class _Constant(nn.Parameter):
    """A weight that nothing will change, so that a deep copy of it is itself.

    Lowering deep-copies every subgraph that it hands to a delegate, weights and all. Copying them would hold the
    model in memory three times.
    """

    def __new__(cls, tensor: torch.Tensor) -> Self:
        return super().__new__(cls, tensor, requires_grad=False)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self


def _float32_weights(model: Model) -> set[Weight]:
    """What is stored in float32 whatever stores the rest.

    Norms are small, and sensitive; and XNNPACK adds a float32 bias to a product with a quantized matrix.
    """
    quantized = [each for each in walk.linears(model.network) if isinstance(each.weight, QuantizedWeight)]
    wide = {linear.bias for linear in quantized} | set(walk.weights(walk.norms(model.network)))
    return {weight for weight in wide if weight is not None}


def _with_own_storage(tensor: torch.Tensor) -> torch.Tensor:
    """The same memory as a tensor whose storage is no larger than it is.

    XNNPACK's serializer writes a constant's whole storage, which for a part of a fused projection or of the
    position table would be all of the tensor that it is a part of.
    """
    storage = tensor.untyped_storage()
    if storage.nbytes() == tensor.nbytes:
        return tensor
    start = tensor.storage_offset() * tensor.element_size()
    own = storage[start : start + tensor.nbytes]
    return torch.empty(0, dtype=tensor.dtype).set_(own, 0, tensor.shape, tensor.stride())
