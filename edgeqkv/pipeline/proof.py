"""What an export has to reproduce, and the comparison with what it does.

A `Proof` is a sequence of tokens, the pieces in which they are fed, and the original model's logits after each
piece. The pieces are chosen to pass every place where an export can go wrong without anybody noticing: inside a
prefill chunk, across its boundary, from prefill to decode and back, at the last position of the state, past it,
and on a state that was used before.

Nothing here needs torch: a bundle carries its proof (`Proof.sampled`), so that any machine with the runtime can
repeat the comparison without the checkpoint.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final, Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from edgeqkv.errors import BundleError, ContextFull
from edgeqkv.run.session import Session

__all__ = ["TOLERANCES", "Proof", "Verification", "compare", "pieces"]

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
    # every product. It cannot be switched off (XNNPACK), so this bounds quality, not the graph; that is proven
    # apart, with the rounding taken out of it. Measured: 1.3e-2 of the scale on tiny models, 2.6e-2 on the demo
    # model, argmax equal at 97 of 100 positions.
    "int8-activations": 6e-2,
}
"""Largest |difference| of logits that is rounding, by the coarsest number format that the session computes or
stores its state in; relative to the largest logit where that is above 1."""

_DECODED = 8  # single tokens fed after each long piece
_BEYOND = 8  # tokens of the first piece that are past a chunk's boundary
_SAMPLED = 64  # vocabulary entries whose logits a bundle carries


class Verification(BaseModel):
    """The outcome of a comparison, as a manifest keeps it.

    Attributes:
        passed: whether every step was within the tolerance and the state ended where it should.
        max_abs_error: the largest |difference| of a logit.
        tolerance: what was allowed.
        scale: the largest |logit| of the original.
        steps: how many times logits were compared.
        positions: tokens that were fed: the whole context.
        argmax_equal: steps whose most likely token was the original's.
        compared: logits compared a step.
        engine: what ran it.
        failure: what went wrong, in words; empty if nothing did.
    """

    # Not-a-number is no JSON; a failed comparison may well have produced some.
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    passed: bool
    max_abs_error: float
    tolerance: float
    scale: float
    steps: int
    positions: int
    argmax_equal: int
    compared: int
    engine: str
    failure: str = ""


class Proof:
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
        self.tokens, self.lengths, self.columns, self.logits, self.argmax = (
            tokens,
            lengths,
            columns,
            logits,
            argmax,
        )

    @classmethod
    def of(cls, tokens: npt.NDArray[np.int64], lengths: list[int], logits: npt.NDArray[np.float32]) -> Self:
        """A proof with the whole vocabulary's logits, ``[pieces, vocab]``."""
        return cls(tokens, np.array(lengths), np.arange(logits.shape[1]), logits, logits.argmax(1))

    def sampled(self) -> Proof:
        """The same with a few columns, spread over the vocabulary and with every step's best among them."""
        spread = np.linspace(0, len(self.columns) - 1, _SAMPLED).astype(np.int64)
        columns = np.union1d(spread, self.argmax)
        return Proof(self.tokens, self.lengths, columns, self.logits[:, columns], self.argmax)

    def save(self, path: Path) -> None:
        """Write it as ``.npz``."""
        np.savez(
            path,
            tokens=self.tokens,
            lengths=self.lengths,
            columns=self.columns,
            logits=self.logits,
            argmax=self.argmax,
        )

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote.

        Raises:
            BundleError: it is missing or damaged.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                return cls(*(file[name] for name in ("tokens", "lengths", "columns", "logits", "argmax")))
        except (OSError, ValueError, KeyError) as error:
            raise BundleError(f"the proof {path} cannot be read: {error}") from error


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


def compare(session: Session, proof: Proof, engine: str) -> Verification:
    """Feed the proof to a session and compare its logits after every piece.

    Afterwards one more token must be refused, and after `Session.reset` the first piece must give the same
    logits again, whatever the state holds by then.
    """
    scale = float(np.abs(proof.logits).max())
    tolerance = TOLERANCES[session.precision] * max(1.0, scale)
    got, failure = _run(session, proof, tolerance)
    errors = np.abs(got[:, proof.columns] - proof.logits[: len(got)])
    worst = float(np.nan_to_num(errors, nan=np.inf).max(initial=0.0))
    if not failure and worst > tolerance:
        step = int(np.nan_to_num(errors, nan=np.inf).max(1).argmax())
        position = int(proof.lengths[: step + 1].sum()) - 1
        kind = "prefill" if proof.lengths[step] > 1 else "decode"
        failure = f"logits differ by {worst:.3g} at position {position} ({kind}); {tolerance:.3g} is allowed"
    return Verification(
        passed=not failure,
        max_abs_error=worst,
        tolerance=tolerance,
        scale=scale,
        steps=len(got),
        positions=session.position if failure else len(proof.tokens),
        argmax_equal=int((got.argmax(1) == proof.argmax[: len(got)]).sum()),
        compared=len(proof.columns),
        engine=engine,
        failure=failure,
    )


def _run(session: Session, proof: Proof, tolerance: float) -> tuple[npt.NDArray[np.float32], str]:
    """The session's logits after each piece ``[pieces, vocab]``, and what it did that it must not."""
    starts = np.cumsum(proof.lengths) - proof.lengths
    session.reset()
    got = np.stack(
        [
            session.feed(proof.tokens[start : start + length])
            for start, length in zip(starts, proof.lengths, strict=True)
        ]
    )
    try:
        session.feed(proof.tokens[:1])
    except ContextFull:
        pass
    else:
        return got, f"it took a token past its context of {session.capacity}"
    session.reset()
    again = session.feed(proof.tokens[: proof.lengths[0]])
    drift = float(np.abs(again - got[0]).max())
    if not drift <= tolerance:  # so that NaN fails too
        return got, f"after reset() the same tokens give logits that differ by {drift:.3g}"
    return got, ""
