"""Softmax, normalization and products in whole numbers, in Arm's reference model, against the same in real numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from npu_bundles import needs_arms_model

pytestmark = needs_arms_model

ROWS = 16


def computed(numbers: npt.NDArray[Any], function: Callable[[Any, Any], Any]) -> npt.NDArray[Any]:
    """What a graph makes of the rows of a table of 16 bits."""
    import tosa_reference_model

    from edgeqkv.backends.ethos.graph import TosaGraph, symmetric

    graph = TosaGraph()
    index = graph.input("index", "int32", [1, ROWS], "tokens")
    table = graph.stored(numbers, (1, *numbers.shape), symmetric(float(numbers.min()), float(numbers.max())))
    result = function(graph, graph.rows(table, index))
    graph.output(result, "result", "fp32", "logits")
    (codes,), status = tosa_reference_model.run(graph.serialized(), [np.arange(ROWS, dtype=np.int32)[None]])
    assert status == tosa_reference_model.GraphStatus.TOSA_VALID
    found: npt.NDArray[Any] = (codes.astype(np.float64) - result.zero) * result.scale
    return found


@pytest.mark.parametrize("width", [1, 5, 300, 2000])
def test_softmax(width: int) -> None:
    """Of rows that are flat, and of those that have one large score; each is off by its rounding to 2⁻¹⁵."""
    from edgeqkv.backends.ethos.arithmetic import score_scale, softmax

    random = np.random.default_rng(width)
    scores = random.standard_normal((ROWS, width)) * np.linspace(0, 9, ROWS)[:, None]
    ends = float(scores.min()), float(scores.max()) or 1.0
    found = computed(scores, lambda graph, x: softmax(graph, graph.wide(x, score_scale(*ends))))
    powers = np.exp(scores - scores.max(1, keepdims=True))
    # A score is stored in steps of its range, which make a power so much larger or smaller.
    step = max(-ends[0], ends[1]) / 32767
    assert np.abs(found - powers / powers.sum(1, keepdims=True)).max() < 2 * step + 2**-14


def test_a_hidden_score_counts_nothing() -> None:
    from edgeqkv.backends.ethos.arithmetic import HIDDEN, score_scale, softmax

    scores = np.full((ROWS, 8), 30.0)
    scores[:, 0] = -30.0

    def masked(graph: Any, x: Any) -> Any:
        wide = graph.wide(x, score_scale(-30.0, 30.0))
        hidden = np.where(np.arange(8) == 0, 0, HIDDEN)[None].astype(float)
        return softmax(graph, graph.whole_op("ADD", wide, graph.whole(hidden, 1.0)))

    found = computed(scores, masked)
    assert (found[:, 1:] == 0).all()
    assert np.allclose(found[:, 0], 1, atol=2**-14)


@pytest.mark.parametrize("channels", [4, 64, 768])
def test_normalization(channels: int) -> None:
    """Of rows whose spreads are three hundred times apart, which no table has in its reach."""
    from edgeqkv.backends.ethos.arithmetic import normalized
    from edgeqkv.backends.ethos.graph import symmetric

    random = np.random.default_rng(channels)
    rows = random.standard_normal((ROWS, channels)) * np.geomspace(0.01, 3, ROWS)[:, None]
    centred = rows - rows.mean(1, keepdims=True)
    wanted = centred / np.sqrt(rows.var(1, keepdims=True) + 1e-5)
    encoding = symmetric(float(wanted.min()), float(wanted.max()))
    reach = float(np.abs(centred).max())
    found = computed(rows, lambda graph, x: normalized(graph, x, reach, 1e-5, encoding))
    # Numbers were rounded to steps of the largest row's range, and are so many times larger now; centred ones again.
    step = np.abs(rows).max() / 32767 / np.sqrt(rows.var(1, keepdims=True) + 1e-5)
    assert (np.abs(found - wanted) < 2 * step + 1e-3).all()


@pytest.mark.parametrize("narrow", [False, True], ids=["a16w8", "int8"])
def test_a_product_is_rounded_once(narrow: bool) -> None:
    from edgeqkv.backends.ethos.graph import affine, symmetric

    random = np.random.default_rng(7)
    rows = random.uniform(-1, 3, (ROWS, 32))
    codes, scales = random.integers(-127, 128, (8, 32)).astype(np.int8), random.uniform(0.01, 0.1, 8)
    bias = random.standard_normal(8) * 10
    wanted = rows @ (codes * scales[:, None]).T + bias
    encoding = symmetric(float(wanted.min()), float(wanted.max()))

    def product(graph: Any, x: Any) -> Any:
        taken = graph.rescaled(x, affine(-1.0, 3.0)) if narrow else x
        return graph.product(taken, codes, scales, bias, encoding)

    # Half a step of each number that enters, and of the result, whose factor has 15 bits.
    entering = (4 / 255 if narrow else 3 / 32767) / 2 * np.abs(codes * scales[:, None]).sum(1)
    assert (np.abs(computed(rows, product) - wanted) < entering + 3 * encoding.scale).all()


@pytest.mark.parametrize("kind", ["gelu", "gelu_tanh", "silu", "relu"])
def test_activations(kind: str) -> None:
    import torch
    import torch.nn.functional as F

    from edgeqkv.backends.ethos.graph import symmetric
    from edgeqkv.backends.ethos.ops import FUNCTIONS

    rows = np.linspace(-8, 8, ROWS * 64).reshape(ROWS, 64)
    tensor = torch.from_numpy(rows)
    wanted = {
        "gelu": F.gelu(tensor),
        "gelu_tanh": F.gelu(tensor, approximate="tanh"),
        "silu": F.silu(tensor),
        "relu": F.relu(tensor),
    }[kind].numpy()
    found = computed(rows, lambda graph, x: graph.bent(x, FUNCTIONS[kind], symmetric(-0.2, 8.0)))
    # 512 straight lines, 2⁻⁵ wide: x² bends away from one by 2⁻¹² at most. A bend like relu's lies on a table's entry.
    assert np.abs(found - wanted).max() < 2**-11
