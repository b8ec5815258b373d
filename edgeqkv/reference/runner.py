"""The reference as something to call: the model itself with a state, called as its exports are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from edgeqkv.model.model import Model
from edgeqkv.reference.ops import StatefulOps, TorchOps

__all__ = ["ReferenceRunner"]


class _Spec(Protocol):
    """A tensor of a call: its name, and what it is."""

    @property
    def name(self) -> str: ...
    @property
    def role(self) -> str: ...


class _Graph(Protocol):
    """What can be called."""

    @property
    def inputs(self) -> Sequence[Any]: ...
    @property
    def outputs(self) -> Sequence[Any]: ...


class ReferenceRunner:
    """Runs a model in torch.

    A decoder's graph has ``tokens [1, S]`` and ``start [1]`` (or ``positions``, of which the first counts), and may ask
    for one row's logits (``logit_index``); an encoder's has one input. Inputs are found by their roles.

    Args:
        model: the model; the precision of its weights counts, and so does an int8 state's rounding.
        context: positions that the state has room for; as many as the model has by default.
    """

    precision = "fp32"

    def __init__(self, model: Model, context: int | None = None) -> None:
        self._model = model
        self._ops = TorchOps()
        self.state_bytes = 0
        if model.causal:
            capacity = model.config.positions if context is None else context
            self._model = model.with_context(capacity)
            self._ops = StatefulOps(self._model.state(capacity), model.state_scales)
            self.state_bytes = model.state_bytes(capacity, torch.float32.itemsize)

    @torch.inference_mode()
    def call(self, graph: _Graph, inputs: Mapping[str, npt.NDArray[Any]]) -> Mapping[str, npt.NDArray[Any]]:
        """The output, by its name, for inputs by theirs."""
        specs: Sequence[_Spec] = graph.inputs
        given = {spec.role: inputs[spec.name] for spec in specs if spec.name in inputs}
        output = self._decoded(given) if self._model.causal else self._encoded(given)
        return {graph.outputs[0].name: output}

    def close(self, graph: _Graph) -> None:
        """Nothing is held for a graph."""

    def _decoded(self, given: Mapping[str, npt.NDArray[Any]]) -> npt.NDArray[np.float32]:
        start = given["start"] if "start" in given else given["positions"]
        self._ops.position = int(start.reshape(-1)[0])
        self._ops.rows = given["logit_index"].reshape(-1).tolist() if "logit_index" in given else (-1,)
        ids = torch.from_numpy(given["tokens"].reshape(-1).astype(np.int64))
        logits: torch.Tensor = self._model.network.outputs(self._ops, ids)
        return logits.numpy()

    def _encoded(self, given: Mapping[str, npt.NDArray[Any]]) -> npt.NDArray[np.float32]:
        (batch,) = given.values()
        outputs = self._model.network.outputs(self._ops, torch.from_numpy(batch))
        result: npt.NDArray[np.float32] = outputs.reshape(len(batch), *self._model.config.output_shape).numpy()
        return result
