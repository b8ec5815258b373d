"""What quantization costs: the perplexity of an artifact, and of its original, on the tokens of a text."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from edgeqkv.backends import backend
from edgeqkv.bundle.manifest import Artifact, Quality
from edgeqkv.pipeline.worker import perplexity_in_worker
from edgeqkv.progress import Progress, silent
from edgeqkv.run.perplexity import original_perplexity

if TYPE_CHECKING:
    from edgeqkv.model.model import Model

__all__ = ["QualityGate"]


class QualityGate:
    """Measures artifacts of one model on one text; the original once for each context.

    Args:
        tokens: the text's token ids.
        text: its name.
        original: the model, if it is at hand.
        on_progress: told of the progress.
    """

    def __init__(self, tokens: list[int], text: str, original: Model | None, on_progress: Progress = silent) -> None:
        self._tokens: npt.NDArray[np.int64] = np.array(tokens)
        self._text = text
        self._original = original
        self._on_progress = on_progress
        self._originals: dict[int, float] = {}

    def measure(self, directory: Path, artifact: Artifact, engine: str | None = None) -> Quality:
        """The quality of an artifact in ``directory``, as the engine computes it; by default what an app runs."""
        context = int(artifact.context or 0)
        before = self._before(context)
        engine = engine or backend(artifact.target).engines[0]
        after, count = perplexity_in_worker(directory, artifact, self._tokens, engine, self._on_progress)
        return Quality(text=self._text, tokens=count, perplexity=after, original=before)

    def _before(self, context: int) -> float | None:
        if self._original is None:
            return None
        if context not in self._originals:
            self._on_progress("measuring the original's perplexity", None)
            self._originals[context] = original_perplexity(self._original, self._tokens, context)[0]
        return self._originals[context]
