"""What an encoder's export has to reproduce, and the comparison with what it does.

The inputs are random: more than a batch of them, so that the last one is filled up, and no two alike, so that an export
which mixes up a batch is found out. For an export that takes images they are those of images, of every brightness, so
that its normalization is proven too. Nothing here needs torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final, Self

import numpy as np
import numpy.typing as npt

from edgeqkv.bundle.manifest import Normalization, TensorSpec
from edgeqkv.errors import BundleError
from edgeqkv.model.pixels import normalized
from edgeqkv.pipeline.proof import TOLERANCES, Verification
from edgeqkv.run.session import EncoderSession

__all__ = ["EncoderProof", "compare_outputs", "proof_inputs"]

_SEED: Final = 20261122
_FEWEST: Final = 4
_STEP: Final = 1 / 32  # of pixels and features, which are then stored as int8


class EncoderProof:
    """Inputs ``[n, …]`` and the original's logits for them, ``[n, …]`` float32."""

    def __init__(self, inputs: npt.NDArray[np.generic], outputs: npt.NDArray[np.float32]) -> None:
        self.inputs = inputs
        self.outputs = outputs

    def save(self, path: Path) -> None:
        """Write it as ``.npz``. Numbers that are small multiples of one step are stored as int8."""
        stored = self.inputs
        if not np.issubdtype(stored.dtype, np.integer):
            steps = stored.astype(np.float64) / _STEP
            if np.abs(steps).max() <= 127 and (steps == steps.round()).all():
                stored = steps.astype(np.int8)
        np.savez_compressed(path, inputs=stored, outputs=self.outputs)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote.

        Raises:
            BundleError: it is missing or damaged.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                stored, outputs = file["inputs"], file["outputs"]
        except (OSError, ValueError, KeyError) as error:
            raise BundleError(f"the proof {path} cannot be read: {error}") from error
        return cls(stored.astype(np.float32) * np.float32(_STEP) if stored.dtype == np.int8 else stored, outputs)


def proof_inputs(
    spec: TensorSpec, values: int | None, normalization: Normalization | None = None
) -> npt.NDArray[np.generic]:
    """Inputs for a proof: two batches and one more.

    Token ids are drawn evenly from ``0 … values - 1``; pixels and features from a normal distribution, as normalized
    data have it, in steps of 1/32 up to ±4. An image's pixels are drawn evenly from 0 to 255 and normalized.
    """
    batch, *shape = (int(size) for size in spec.shape)
    random = np.random.default_rng(_SEED)
    size = (max(_FEWEST, 2 * batch + 1), *shape)
    if values is not None:
        return random.integers(0, values, size)
    if normalization is not None:
        pixels = random.integers(0, 256, size).astype(np.uint8)
        return normalized(pixels, normalization.mean, normalization.std)
    return (random.normal(size=size).clip(-3.9, 3.9) / _STEP).round().astype(np.float32) * np.float32(_STEP)


def compare_outputs(session: EncoderSession, proof: EncoderProof, engine: str) -> Verification:
    """Run the proof's inputs and compare every logit."""
    got = session.run(proof.inputs)
    scale = float(np.abs(proof.outputs).max())
    tolerance = TOLERANCES[session.precision] * max(1.0, scale)
    worst = float(np.nan_to_num(np.abs(got - proof.outputs), nan=np.inf).max())
    answers = proof.outputs[0].size // proof.outputs.shape[-1] * len(got)
    return Verification(
        passed=worst <= tolerance,
        max_abs_error=worst,
        tolerance=tolerance,
        scale=scale,
        steps=answers,
        positions=len(got),
        argmax_equal=int((got.argmax(-1) == proof.outputs.argmax(-1)).sum()),
        compared=proof.outputs.shape[-1],
        engine=engine,
        failure="" if worst <= tolerance else f"logits differ by {worst:.3g}; {tolerance:.3g} is allowed",
    )
