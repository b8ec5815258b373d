from __future__ import annotations

import numpy as np
import pytest
from reference_session import TorchSession

import edgeqkv
from edgeqkv import InputError, VerificationFailed, demo
from edgeqkv.bundle.manifest import Quality
from edgeqkv.demo.train import perplexity as as_stated
from edgeqkv.model.model import Model
from edgeqkv.reference.outputs import sequence_logits
from edgeqkv.run.perplexity import excess, original_perplexity, session_perplexity
from edgeqkv.run.tokenizer import Tokenizer

WORDS = Tokenizer(demo.tokenizer_path())
HELDOUT = np.array(WORDS.encode(demo.heldout_path().read_text(encoding="utf-8")))


@pytest.fixture(scope="module")
def model() -> Model:
    return edgeqkv.load(demo.checkpoint_path())


def test_the_demo_models_perplexity_is_the_stated_one(model: Model) -> None:
    # Stated to three decimals; float32 sums in another order move the sixth.
    assert as_stated(lambda ids: sequence_logits(model, ids), HELDOUT, demo.WINDOW) == pytest.approx(
        demo.PERPLEXITY, abs=1e-3
    )


def test_a_session_and_the_original_are_measured_on_the_same_tokens(model: Model) -> None:
    tokens = HELDOUT[:700]
    alone, count = original_perplexity(model, tokens, 128)
    fed, same_count = session_perplexity(TorchSession(model, context=128, chunk=50), tokens)
    assert (count, same_count) == (320, 320)  # five windows, half of each
    assert fed == pytest.approx(alone, rel=1e-5)


def test_by_hand() -> None:
    """Two windows of four tokens over a vocabulary of two, with fixed probabilities."""

    class Fixed(TorchSession):
        def __init__(self) -> None:
            self.capacity, self.chunk, self.vocab_size, self._position = 4, 4, 2, 0
            self.on_step = None

        def _step(self, ids: np.ndarray, position: int) -> np.ndarray:
            return np.log(np.array([0.25, 0.75], np.float32))

    # Predicted: the last two tokens of each window: 1, 0 and 1, 1.
    value, count = session_perplexity(Fixed(), np.array([0, 0, 1, 0, 0, 0, 1, 1, 0]))
    assert count == 4
    assert value == pytest.approx((0.75 * 0.25 * 0.75 * 0.75) ** (-1 / 4), rel=1e-6)


def test_texts_that_are_too_short(model: Model) -> None:
    with pytest.raises(InputError, match="4 tokens or more and such a context; there are 3"):
        original_perplexity(model, HELDOUT[:3], 128)


def test_the_limit() -> None:
    quality = Quality(text="t.txt", tokens=9, perplexity=10.4, original=10.0)
    assert quality.degradation == pytest.approx(0.04)
    assert not excess(quality, "ONNX", 0.05)
    assert "4.0% more, where 3.0% is allowed" in excess(quality, "ONNX", 0.03)
    assert not excess(Quality(text="t.txt", tokens=9, perplexity=10.4, original=None), "ONNX", 0.03)


def test_an_export_that_loses_too_much_leaves_no_bundle(model: Model, tmp_path) -> None:  # type: ignore[no-untyped-def]
    text = tmp_path / "text.txt"
    text.write_text(demo.heldout_path().read_text(encoding="utf-8")[:4000])
    choices = {"tokenizer": demo.tokenizer_path(), "text": text, "context": 128}
    bundle = edgeqkv.export(model, "onnx", out=tmp_path / "int8", weights="int8", **choices)
    quality = bundle.target().quality
    assert quality is not None
    assert abs(quality.degradation or 1) < 0.01
    with pytest.raises(VerificationFailed, match=r"where 0\.5% is allowed\. Calibrate"):
        edgeqkv.export(model, "onnx", out=tmp_path / "int4", weights="int4", max_degradation=0.005, **choices)
    assert not (tmp_path / "int4").exists()
    with pytest.raises(InputError, match="needs the model's tokenizer"):
        edgeqkv.export(model, "onnx", out=tmp_path / "x", text=text)
    with pytest.raises(InputError, match="needs the model's tokenizer"):
        edgeqkv.export(model, "onnx", out=tmp_path / "x", calibrate=text)
