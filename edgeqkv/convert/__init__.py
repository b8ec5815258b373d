"""Conversion: an ordinary model in, one whose keys and values are one tensor, or are shared by heads, out.

With learned positions nothing but linear maps stands between a layer's input and its scores. So a merged tensor of the
same width can stand for keys and values both, each head restores its own from it, and the maps that do so are taken up
by the matrices of queries and output. What is lost is what does not fit into the merged tensor, and which that is, is
chosen by how much it counts: `statistics` sees that, `solve` chooses.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

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
    on_progress: Progress = silent,
) -> Model:
    """The model as another variant, without training.

    The result computes nearly what the model did: exactly, where what is to share a tensor did lie in one space, and
    measurably less well where it did not (`edgeqkv.run.perplexity`).

    Args:
        model: what `edgeqkv.load` returned: a decoder whose positions are learned, or that has none.
        variant: ``q-k=v``, or ``q-k=v`` or ``qkv`` with ``+gqaN`` or ``+mqa``, in any accepted spelling.
        tokens: token ids of a text like those that the model is for, ``[n]``, or windows of it, ``[windows, length]``.
        windows: how many windows are looked at. Beside the weights, conversion takes the memory of
            ``windows · length · width`` numbers, and of ``4 · heads · width²`` for one layer.
        on_progress: told of the progress.

    Raises:
        InputError: the model is an encoder or would store no less, or there are too few tokens.
        UnsupportedError: no conversion leads from this model to that variant; the message says why.
        VariantError: the variant is unknown, or the heads do not divide so.

    >>> tokens = [(7 * n + n // 5) % 1024 for n in range(1024)]  # of a text, where more than an example is wanted
    >>> model = edgeqkv.convert(edgeqkv.load("ordinary.pt"), "q-k=v", tokens=tokens, windows=2)
    >>> str(model.variant)
    'q-k=v'
    """
    with needed_for("conversion"):
        import numpy as np

        from edgeqkv.convert.conversion import converted
    return converted(model, variant, np.asarray(tokens), windows=windows, on_progress=on_progress).model
