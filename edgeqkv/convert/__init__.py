"""Conversion: an ordinary model in, one whose keys and values are one tensor, or are shared by heads, out.

With learned positions nothing but linear maps stands between a layer's input and its scores. So a merged tensor of the
same width can stand for keys and values both, each head restores its own from it, and the maps that do so are taken up
by the matrices of queries and output. What is lost is what does not fit into the merged tensor, and which that is, is
chosen by how much it counts: `statistics` sees that, `solve` chooses.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from edgeqkv.errors import InputError
from edgeqkv.extras import needed_for
from edgeqkv.progress import Progress, silent

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from edgeqkv.model.model import Model
    from edgeqkv.model.variants import Variant

__all__ = ["BATCH", "WINDOWS", "convert"]

WINDOWS: Final = 48
"""Pieces of text, of 512 tokens at most, that are enough to see what counts."""

BATCH: Final = 8
"""Windows that a step of distillation compares."""


def convert(
    model: Model,
    variant: str | Variant,
    *,
    tokens: Sequence[int] | npt.NDArray[np.integer],
    windows: int = WINDOWS,
    layers: Sequence[int] | None = None,
    state_budget: int | None = None,
    memory: int | None = None,
    on_progress: Progress = silent,
) -> Model:
    """The model as another variant, without training.

    The result computes nearly what the model did: exactly, where what is to share a tensor did lie in one space, and
    measurably less well where it did not (`edgeqkv.run.perplexity`).

    Args:
        model: what `edgeqkv.load` returned: a decoder whose positions are learned, or that has none.
        variant: ``q-k=v``, or ``q-k=v`` or ``qkv`` with ``+gqaN`` or ``+mqa``, in any accepted spelling.
        tokens: token ids of a text like those that the model is for, ``[n]``, or windows of it, ``[windows, length]``.
        windows: how many windows are looked at.
        layers: which layers are converted, counted from 0; None: all that would store less.
        state_budget: bytes that the state of all positions may take in float16: as few layers are converted as that
            needs, and those that would lose most stay as they are. None: all layers.
        memory: bytes of memory that the conversion may take for what it sees and makes: ``windows · length · width``
            numbers, ``2 · heads · width²`` for the layer at hand, and the converted layers. What is more lies in a
            temporary file. Beside that it takes some matrices of a layer, and what four windows compute in it.
        on_progress: told of the progress.

    Raises:
        InputError: the model is an encoder or would store no less, there are too few tokens, or no choice of layers
            meets the budget.
        UnsupportedError: no conversion leads from this model to that variant; the message says why.
        VariantError: the variant is unknown, or the heads do not divide so.

    >>> tokens = [(7 * n + n // 5) % 1024 for n in range(1024)]  # of a text, where more than an example is wanted
    >>> model = edgeqkv.convert(edgeqkv.load("ordinary.pt"), "q-k=v", tokens=tokens, windows=2)
    >>> str(model.variant)
    'q-k=v'
    """
    with needed_for("conversion"):
        import numpy as np

        from edgeqkv.convert.choice import check_budget, within_budget
        from edgeqkv.convert.conversion import candidates
        from edgeqkv.convert.reach import target_of
    if state_budget is not None:
        if layers is not None:
            raise InputError("layers and a state budget cannot both be given: the budget chooses the layers")
        check_budget(model, target_of(model, variant), state_budget)
    found = candidates(
        model, variant, np.asarray(tokens), windows=windows, layers=layers, memory=memory, on_progress=on_progress
    )
    return (found.taken(found.ranked) if state_budget is None else within_budget(found, state_budget)).model
