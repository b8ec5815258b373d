"""What an export has to reproduce, and the comparison with what it does.

A decoder's proof (`SequenceProof`) is a sequence of tokens, the pieces in which they are fed, and the original model's
logits after each piece. The pieces are chosen to pass every place where an export can go wrong without anybody
noticing: inside a prefill chunk, across its boundary, from prefill to decode and back, at the last position of the
state, past it, and on a state that was used before.

An encoder's (`InputsProof`) is random inputs and the original's logits for them: more than a batch of them, so that the
last one is filled up, and no two alike, so that an export which mixes up a batch is found out. For an export that takes
images they are those of images, of every brightness, so that its normalization is proven too.

Nothing here needs torch, unless a proof is made: a bundle carries its proof, so that any machine with the runtime can
repeat the comparison without the checkpoint.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from edgeqkv.arrays import read_arrays
from edgeqkv.backends.ends import input_spec
from edgeqkv.backends.target import TargetSpec
from edgeqkv.bundle.manifest import Artifact, TensorSpec, Verification
from edgeqkv.errors import BundleError, ContextFull
from edgeqkv.model.pixels import normalized
from edgeqkv.progress import Fraction
from edgeqkv.run.session import EncoderSession, Session

if TYPE_CHECKING:
    from edgeqkv.model.model import Model

__all__ = [
    "SEED",
    "TOLERANCES",
    "InputsProof",
    "Proof",
    "SequenceProof",
    "allowed_difference",
    "examples",
    "load_proof",
    "make_proof",
    "pieces",
    "proof_inputs",
    "proof_tokens",
    "random_inputs",
]

TOLERANCES: Final = {
    # float32 arithmetic in another order of summation: a few units in the last place of sums over the hidden
    # size, grown through the layers. Measured: 3e-6 on tiny models and at 300M; 1e-4 leaves room for deeper
    # ones and is far below anything that an error in the graph would cause.
    "fp32": 1e-4,
    # float16 keeps 11 bits: each stored number is off by up to 4.9e-4 of itself, and layers add up. Measured:
    # 6e-4 of the scale on tiny models.
    "fp16": 5e-3,
    # An int8 state: the original's keys and values are rounded with the same scales, so that only those differ which
    # lie so close to the middle between two codes that float32's last digits decide. Measured, as a part of the
    # scale: 6e-7 on tiny models, where none did, 2e-4 at 300M. One code off by one, put there on purpose, moves the
    # logits by at most 2e-2 where a head has 8 channels and 7e-3 where it has 32.
    "int8": 2e-2,
    # What enters a product is rounded to int8, with a scale a token: off by up to 1/510 of the token's range, in
    # every product. It cannot be switched off (XNNPACK), or is what makes an engine fast (ONNX Runtime), so this
    # bounds quality, not the graph; that is proven apart, with the rounding taken out of it. It grows with the number
    # of layers. Measured: 1.3e-2 of the spread on tiny models, 2.6e-2 on the demo model, argmax equal at 97 of 100
    # positions; on SmolLM2-135M, of 30 layers, 7.6e-2 (int8 weights) and 1.1e-1 (int4) in ONNX Runtime, argmax equal at
    # 34 of 36, and 1.6e-1 (int4) in XNNPACK, argmax equal at 14 of 18, where the perplexity is 2 % above that of the
    # dequantized weights. An export that lost its weights has 1.
    "int8-activations": 2.5e-1,
    # Activations of 16 bits in ranges that were observed, a state of 8, scales of normalizations of 8. Measured, as a
    # part of the spread: 9e-3 on the demo model with int8 weights, 1.4e-2 with int4.
    "int16-activations": 5e-2,
}
"""Largest |difference| of logits that is rounding, by the coarsest number format that the session computes or
stores its state in; as a part of how far logits are spread (`allowed_difference`)."""

_LEAST_SPREAD: Final = 1 / 64  # of the largest logit: rounding is as large as what it rounds

SEED: Final = 20260701

_DECODED: Final = 8  # single tokens fed after each long piece
_BEYOND: Final = 8  # tokens of the first piece that are past a chunk's boundary
_SAMPLED: Final = 64  # vocabulary entries whose logits a bundle carries

_FEWEST: Final = 4  # inputs of an encoder
_EXAMPLES: Final = 32  # of them, to look at what becomes of them
_STEP: Final = 1 / 32  # of pixels and features, which are then stored as int8


def allowed_difference(precision: str, logits: npt.NDArray[np.float32]) -> float:
    """Largest |difference| from the original's ``logits [steps, …]`` that is rounding.

    Relative to how far they are from their mean over the steps: by what an export that had lost its weights, and gave
    the same logits for everything, would differ. An absolute bound would pass it if logits are small, and one relative
    to the logits themselves if something constant is added to them.
    """
    middle = logits.mean(0) if len(logits) > 1 else logits.mean()
    spread = float(np.abs(logits - middle).max())
    return TOLERANCES[precision] * max(spread, _LEAST_SPREAD * float(np.abs(logits).max()))


class Proof(ABC):
    """What is fed, and what the original made of it."""

    @abstractmethod
    def compare(
        self, session: Session | EncoderSession, engine: str, on_fraction: Fraction | None = None
    ) -> Verification:
        """Feed it to a session and compare all logits; ``on_fraction`` is told of the part that was fed."""

    @abstractmethod
    def sampled(self) -> Proof:
        """As a bundle carries it."""

    @abstractmethod
    def arrays(self) -> dict[str, Any]:
        """Its content: arrays, by name."""

    def save(self, path: Path) -> None:
        """Write it as ``.npz``."""
        np.savez_compressed(path, **self.arrays())


class SequenceProof(Proof):
    """Tokens, the pieces they are fed in, and the original's logits after each piece.

    Attributes:
        tokens: ``[context]`` token ids.
        lengths: tokens a piece; they add up to the context.
        columns: ``[n]`` the vocabulary entries whose logits are kept.
        logits: ``[pieces, n]`` float32.
        argmax: ``[pieces]`` the most likely token, over the whole vocabulary.
    """

    def __init__(
        self,
        tokens: npt.NDArray[np.int64],
        lengths: npt.NDArray[np.int64],
        columns: npt.NDArray[np.int64],
        logits: npt.NDArray[np.float32],
        argmax: npt.NDArray[np.int64],
    ) -> None:
        self.tokens, self.lengths, self.columns, self.logits, self.argmax = tokens, lengths, columns, logits, argmax

    @classmethod
    def of(cls, tokens: npt.NDArray[np.int64], lengths: list[int], logits: npt.NDArray[np.float32]) -> SequenceProof:
        """A proof with the whole vocabulary's logits, ``[pieces, vocab]``."""
        return cls(tokens, np.array(lengths), np.arange(logits.shape[1]), logits, logits.argmax(1))

    def sampled(self) -> SequenceProof:
        """The same with a few columns, spread over the vocabulary and with every step's best among them."""
        spread = np.linspace(0, len(self.columns) - 1, _SAMPLED).astype(np.int64)
        columns = np.union1d(spread, self.argmax)
        return SequenceProof(self.tokens, self.lengths, columns, self.logits[:, columns], self.argmax)

    def arrays(self) -> dict[str, Any]:
        return {
            "tokens": self.tokens,
            "lengths": self.lengths,
            "columns": self.columns,
            "logits": self.logits,
            "argmax": self.argmax,
        }

    def compare(
        self, session: Session | EncoderSession, engine: str, on_fraction: Fraction | None = None
    ) -> Verification:
        """Feed it to a session and compare its logits after every piece.

        Afterwards one more token must be refused, and after `Session.reset` the first piece must give the same
        logits again, whatever the state holds by then.
        """
        if not isinstance(session, Session) or not self._fits(session):
            raise BundleError("the proof is not of this model: export it again, or verify it --against the original")
        scale = float(np.abs(self.logits).max())
        tolerance = allowed_difference(session.precision, self.logits)
        total = len(self.tokens) + int(self.lengths[0])  # the first piece comes twice

        def on_step(position: int) -> None:
            if on_fraction is not None:
                on_fraction(position / total)

        session.on_step = on_step
        got, failure = self._run(session, tolerance)
        errors = np.nan_to_num(np.abs(got[:, self.columns] - self.logits[: len(got)]), nan=np.inf)
        worst = float(errors.max(initial=0.0))
        if not failure and worst > tolerance:
            step = int(errors.max(1).argmax())
            position = int(self.lengths[: step + 1].sum()) - 1
            kind = "prefill" if self.lengths[step] > 1 else "decode"
            failure = f"logits differ by {worst:.3g} at position {position} ({kind}); {tolerance:.3g} is allowed"
        return Verification(
            passed=not failure,
            max_abs_error=worst,
            tolerance=tolerance,
            scale=scale,
            steps=len(got),
            positions=session.position if failure else len(self.tokens),
            argmax_equal=int((got.argmax(1) == self.argmax[: len(got)]).sum()),
            compared=len(self.columns),
            engine=engine,
            failure=failure,
        )

    def _fits(self, session: Session) -> bool:
        """Whether it is of the session's sizes, and of its own: a bundle's is a file that anybody can write."""
        numbers = (self.tokens, self.lengths, self.columns, self.argmax)
        return (
            all(array.ndim == 1 and array.size and np.issubdtype(array.dtype, np.integer) for array in numbers)
            and self.logits.shape == (len(self.lengths), len(self.columns))
            and self.logits.dtype == np.float32
            and self.argmax.shape == self.lengths.shape
            and min(self.lengths) > 0
            and sum(self.lengths.tolist()) == len(self.tokens) == session.capacity
            and 0 <= min(self.columns) <= max(self.columns) < session.vocab_size
        )

    def _run(self, session: Session, tolerance: float) -> tuple[npt.NDArray[np.float32], str]:
        """The session's logits after each piece ``[pieces, vocab]``, and what it did that it must not."""
        starts = np.cumsum(self.lengths) - self.lengths
        session.reset()
        got = np.stack(
            [
                session.feed(self.tokens[start : start + length])
                for start, length in zip(starts, self.lengths, strict=True)
            ]
        )
        try:
            session.feed(self.tokens[:1])
        except ContextFull:
            pass
        else:
            return got, f"it took a token past its context of {session.capacity}"
        session.reset()
        again = session.feed(self.tokens[: self.lengths[0]])
        drift = float(np.abs(again - got[0]).max())
        if not drift <= tolerance:  # so that NaN fails too
            return got, f"after reset() the same tokens give logits that differ by {drift:.3g}"
        return got, ""


class InputsProof(Proof):
    """Inputs ``[n, …]`` and the original's logits for them, ``[n, …]`` float32."""

    def __init__(self, inputs: npt.NDArray[np.generic], outputs: npt.NDArray[np.float32]) -> None:
        self.inputs = inputs
        self.outputs = outputs

    def sampled(self) -> InputsProof:
        return self

    def arrays(self) -> dict[str, Any]:
        """Numbers that are small multiples of one step are stored as int8."""
        stored: npt.NDArray[Any] = self.inputs
        if not np.issubdtype(stored.dtype, np.integer):
            steps = stored.astype(np.float64) / _STEP
            if np.abs(steps).max() <= 127 and (steps == steps.round()).all():
                stored = steps.astype(np.int8)
        return {"inputs": stored, "outputs": self.outputs}

    def compare(
        self, session: Session | EncoderSession, engine: str, on_fraction: Fraction | None = None
    ) -> Verification:
        """Run the inputs and compare every logit."""
        if not isinstance(session, EncoderSession):
            raise BundleError("the proof is not of this model: export it again, or verify it --against the original")
        got = session.run(self.inputs)
        if not self.outputs.size or got.shape != self.outputs.shape or self.outputs.dtype != np.float32:
            raise BundleError(
                f"the proof has outputs {self.outputs.dtype}{list(self.outputs.shape)}, and its inputs give "
                f"float32{list(got.shape)}: export it again, or verify it --against the original"
            )
        scale = float(np.abs(self.outputs).max())
        tolerance = allowed_difference(session.precision, self.outputs)
        worst = float(np.nan_to_num(np.abs(got - self.outputs), nan=np.inf).max())
        return Verification(
            passed=worst <= tolerance,
            max_abs_error=worst,
            tolerance=tolerance,
            scale=scale,
            steps=self.outputs[0].size // self.outputs.shape[-1] * len(got),
            positions=len(got),
            argmax_equal=int((got.argmax(-1) == self.outputs.argmax(-1)).sum()),
            compared=self.outputs.shape[-1],
            engine=engine,
            failure="" if worst <= tolerance else f"logits differ by {worst:.3g}; {tolerance:.3g} is allowed",
        )


def load_proof(path: Path) -> Proof:
    """Read what `Proof.save` wrote.

    Raises:
        BundleError: it is missing or damaged.
    """
    file = read_arrays(path, "proof", BundleError)
    names = ("tokens", "lengths", "columns", "logits", "argmax") if "tokens" in file else ("inputs", "outputs")
    if missing := [name for name in names if name not in file]:
        raise BundleError(f"the proof {path} cannot be read: it holds no {', '.join(missing)}")
    arrays = [file[name] for name in names]
    if "tokens" in file:
        return SequenceProof(*arrays)
    inputs, outputs = arrays
    return InputsProof(inputs.astype(np.float32) * np.float32(_STEP) if inputs.dtype == np.int8 else inputs, outputs)


def make_proof(model: Model, artifact: Artifact, on_fraction: Fraction | None = None) -> Proof:
    """The original model's logits on random input; see `pieces` and `proof_inputs`.

    The reference is the torch interpreter, of a decoder on the whole sequence at once, without a state; in float32 on
    the weights as they are stored, and on keys and values as an int8 state rounds them.
    """
    from edgeqkv.reference.outputs import encoder_outputs, sequence_logits

    if not artifact.causal:
        inputs = proof_inputs(artifact)
        return InputsProof(inputs, encoder_outputs(model, inputs))
    context = int(artifact.context or 0)
    tokens = proof_tokens(int(artifact.vocab_size or 0), context)
    lengths = pieces(context, int(artifact.chunk or 1))
    logits = sequence_logits(model, tokens, (np.cumsum(lengths) - 1).tolist(), on_fraction)
    return SequenceProof.of(tokens, lengths, logits)


def proof_tokens(vocab_size: int, count: int) -> npt.NDArray[np.int64]:
    """Token ids ``[count]``, drawn evenly from the vocabulary."""
    return np.random.default_rng(SEED).integers(0, vocab_size, count)


def pieces(context: int, chunk: int) -> list[int]:
    """How the tokens of a whole context are fed.

    >>> pieces(context=512, chunk=128)
    [136, 1, 1, 1, 1, 1, 1, 1, 1, 360, 1, 1, 1, 1, 1, 1, 1, 1]
    """
    decoded = min(_DECODED, context // 4)
    # A full chunk and a few tokens: where prefill takes full chunks only, the rest of a piece goes one by one.
    first = min(chunk + min(_BEYOND, chunk // 2), context // 2 - decoded) if context > 2 * decoded else 0
    middle = context - first - 2 * decoded
    return [piece for piece in (first, *[1] * decoded, middle, *[1] * decoded) if piece]


def examples(model: Model, spec: TargetSpec, calibration: npt.NDArray[np.int64] | None) -> npt.NDArray[Any]:
    """What a target looks at a model's activations on (`TargetSpec.examples`): text, or else what the proof feeds."""
    if not model.causal:
        return random_inputs(input_spec(model.config, 1, "int64"), model.config.vocab_size, _EXAMPLES)[None]
    if calibration is not None:
        return calibration
    return proof_tokens(model.config.vocab_size, int(spec.context or 1))[None]


def proof_inputs(artifact: Artifact) -> npt.NDArray[np.generic]:
    """Inputs for the proof of an encoder; those of an artifact that takes images are made of pixels 0 to 255."""
    if artifact.normalization is None:
        return random_inputs(artifact.whole_input, artifact.vocab_size)
    batch, *shape = (int(size) for size in artifact.whole_input.shape)
    pixels = np.random.default_rng(SEED).integers(0, 256, (max(_FEWEST, 2 * batch + 1), *shape)).astype(np.uint8)
    return normalized(pixels, artifact.normalization.mean, artifact.normalization.std)


def random_inputs(spec: TensorSpec, vocab_size: int | None, count: int = 0) -> npt.NDArray[np.generic]:
    """So many of an encoder's inputs, or else two batches and one more.

    Token ids are drawn evenly from the vocabulary; pixels and features from a normal distribution, as normalized data
    have it, in steps of 1/32 up to ±4.
    """
    batch, *shape = (int(size) for size in spec.shape)
    random = np.random.default_rng(SEED)
    size = (count or max(_FEWEST, 2 * batch + 1), *shape)
    if vocab_size is not None:
        return random.integers(0, vocab_size, size)
    return (random.normal(size=size).clip(-3.9, 3.9) / _STEP).round().astype(np.float32) * np.float32(_STEP)
