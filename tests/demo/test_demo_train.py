"""The demo model: its trainer on a tiny model, and the files that it made and the package ships."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor

from edgeqkv import demo
from edgeqkv.demo.train import (
    ORDINARY,
    Block,
    Corpus,
    DemoGPT,
    ModelConfig,
    TrainConfig,
    perplexity,
    read_corpus,
    train,
)

AUTHORS_CHECKPOINT = Path(__file__).parents[1] / "data" / "checkpoints" / "k_eq_v_gqa.pt"
TINY = ModelConfig(vocab_size=300, n_positions=32, n_layer=2, n_embd=64, n_head=2, n_kv_groups=1, n_inner=64)
BRIEF = TrainConfig(steps=5, batch_size=2, report_interval=2)


def load(path: Path) -> dict[str, Any]:
    checkpoint: dict[str, Any] = torch.load(path, weights_only=True)
    return checkpoint


def window_logits(model: DemoGPT, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
    with torch.no_grad():
        logits: NDArray[np.float32] = model(torch.from_numpy(tokens)[None])[0].numpy()
    return logits


def remeasure(folder: Path) -> float:
    """Perplexity of the files in `folder`, by the procedure that `demo.PERPLEXITY` states."""
    checkpoint = load(folder / "model.pt")
    model = DemoGPT(ModelConfig(**checkpoint["model_config"])).eval()
    model.load_state_dict(checkpoint["model_state_dict"])
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokens = np.array(tokenizer.encode((folder / "heldout.txt").read_text("utf-8")).ids)
    return perplexity(lambda ids: window_logits(model, ids), tokens, checkpoint["model_config"]["n_positions"])


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Threads that wait for each other make matrices as small as these slow on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    """A thimbleful of text, so that a run of the trainer takes a second."""
    paragraphs = demo.heldout_path().read_text("utf-8").split("\n\n")
    return Corpus(["\n\n".join(paragraphs[:20])], ["\n\n".join(paragraphs[20:40])], "\n\n".join(paragraphs[40:50]))


@pytest.fixture(scope="module")
def trained(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("demo") / "made" / "by-train"
    train(out, TINY, BRIEF, corpus)
    return out


def test_a_run_writes_the_layout_of_the_authors_checkpoint(trained: Path) -> None:
    ours, theirs = load(trained / "model.pt"), load(AUTHORS_CHECKPOINT)
    their_names = {name.removeprefix("module.") for name in theirs["model_state_dict"]}
    masks = {name for name in their_names if name.endswith("attn.bias")}
    assert ours["model_state_dict"].keys() == their_names - masks
    assert ours["model_config"].keys() == theirs["model_config"].keys()
    assert ours.keys() == (theirs.keys() - {"optimizer_state_dict"}) | {"val_metrics"}
    assert ours["model_state_dict"]["h.1.attn.c_k.weight"].shape == (32, 64)
    assert ours["train_config"] == asdict(BRIEF)
    assert ours["tokens_seen"] == 5 * 2 * 32


def test_a_run_states_the_perplexity_of_the_file_it_wrote(trained: Path) -> None:
    metrics = load(trained / "model.pt")["val_metrics"]
    # The same fp32 computation on the same machine; only the order of sums over threads could differ.
    assert remeasure(trained) == pytest.approx(metrics["perplexity"], rel=1e-5)
    assert metrics["loss"] == pytest.approx(math.log(metrics["perplexity"]))


def test_the_same_seed_gives_the_same_weights_and_another_seed_does_not(
    trained: Path, corpus: Corpus, tmp_path: Path
) -> None:
    train(tmp_path / "again", TINY, BRIEF, corpus)
    train(tmp_path / "other", TINY, TrainConfig(**asdict(BRIEF) | {"seed": 2}), corpus)
    first, again, other = (
        load(folder / "model.pt")["model_state_dict"] for folder in (trained, tmp_path / "again", tmp_path / "other")
    )
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["wte.weight"], other["wte.weight"])


def test_training_lowers_the_perplexity(trained: Path, corpus: Corpus, tmp_path: Path) -> None:
    train(tmp_path, TINY, TrainConfig(steps=40, batch_size=4, warmup_steps=5), corpus)
    assert remeasure(tmp_path) < 0.5 * remeasure(trained)


def test_attention_reads_one_tensor_as_keys_and_values_and_shares_it_between_neighbours() -> None:
    config = ModelConfig()
    torch.manual_seed(0)
    length, heads, groups, head_dim = 300, config.n_head, 2, 32
    q, kv = torch.randn(2, length, heads * head_dim), torch.randn(2, length, groups * head_dim)

    def split(x: Tensor, count: int) -> Tensor:
        return x.view(2, length, count, head_dim).transpose(1, 2)

    shared = split(kv, groups).repeat_interleave(heads // groups, dim=1)
    expected = F.scaled_dot_product_attention(split(q, heads), shared, shared, is_causal=True)
    # fp32 sums of at most 300 terms of size about 1, taken in another order.
    torch.testing.assert_close(Block(config)._attend(q, kv, kv), expected.transpose(1, 2).flatten(2), rtol=0, atol=1e-5)


@pytest.mark.parametrize("length", [2, 8, 9, 10, 16, 17, 30])
def test_perplexity_predicts_every_token_but_the_first_once(length: int) -> None:
    """A bigram table sees no context, so windows cannot matter: the answer is a plain mean."""
    rng = np.random.default_rng(length)
    table = rng.normal(size=(11, 11)).astype(np.float32)
    tokens = rng.integers(0, 11, length)
    logits = table.astype(np.float64)
    nats = [np.log(np.exp(logits[now]).sum()) - logits[now, then] for now, then in pairwise(tokens)]
    assert perplexity(lambda ids: table[ids], tokens, 8) == pytest.approx(math.exp(np.mean(nats)), rel=1e-12)


def test_perplexity_of_a_uniform_guess_is_the_vocabulary() -> None:
    tokens = np.arange(20) % 7
    assert perplexity(lambda ids: np.zeros((len(ids), 7), np.float32), tokens, 8) == pytest.approx(7)


def test_training_paragraphs_share_no_eight_words_in_a_row_with_the_held_out_text() -> None:
    def eights(text: str) -> Iterator[tuple[str, ...]]:
        words = text.lower().split()
        return zip(*(words[start:] for start in range(8)), strict=False)

    corpus = read_corpus()
    runs = set(eights(corpus.heldout))
    assert runs
    for document in corpus.reference + corpus.library:
        for paragraph in document.split("\n\n"):
            assert runs.isdisjoint(eights(paragraph)), paragraph
    # Both sources are there, and the reference is most of what `pydoc_data.topics` holds.
    assert sum(map(len, corpus.reference)) > 300_000
    assert sum(map(len, corpus.library)) > 1_000_000


# ---- the shipped files -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shipped() -> dict[str, Any]:
    return load(demo.checkpoint_path())


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(demo.tokenizer_path()))


def test_the_shipped_files_are_small() -> None:
    assert demo.checkpoint_path().stat().st_size <= 2_000_000
    assert demo.tokenizer_path().stat().st_size <= 100_000
    assert 10_000 <= demo.heldout_path().stat().st_size <= 25_000


def test_the_shipped_checkpoint_is_an_fp16_q_gqa_model(shipped: dict[str, Any]) -> None:
    weights = shipped["model_state_dict"]
    assert all(weight.dtype == torch.float16 and weight.isfinite().all() for weight in weights.values())
    assert not any(name.endswith("attn.bias") or name.startswith("module.") for name in weights)
    assert "optimizer_state_dict" not in shipped
    assert weights["wte.weight"].shape == (1024, 128)
    assert weights["wpe.weight"].shape == (512, 128)
    assert weights["h.3.attn.c_q.weight"].shape == (128, 128)
    assert weights["h.3.attn.c_k.weight"].shape == (2 * 32, 128)
    DemoGPT(ModelConfig(**shipped["model_config"])).load_state_dict(weights)  # strict: every name and shape


def test_the_shipped_checkpoint_was_made_by_this_trainer(shipped: dict[str, Any]) -> None:
    assert shipped["model_config"] == asdict(ModelConfig())
    assert shipped["train_config"] == asdict(TrainConfig(python=shipped["train_config"]["python"]))


def test_the_stated_perplexity_is_what_the_shipped_files_measure(shipped: dict[str, Any]) -> None:
    measured = remeasure(demo.checkpoint_path().parent)
    # fp32 arithmetic on another CPU or BLAS moves the mean by about 1e-6; the constant has five digits.
    assert measured == pytest.approx(demo.PERPLEXITY, rel=1e-4)
    assert measured == pytest.approx(shipped["val_metrics"]["perplexity"], rel=1e-4)
    assert shipped["model_config"]["n_positions"] == demo.WINDOW


def test_positions_up_to_the_last_were_trained(shipped: dict[str, Any]) -> None:
    """The same tokens are predicted better as the last quarter of a window than as the start of one."""
    model = DemoGPT(ModelConfig(**shipped["model_config"])).eval()
    model.load_state_dict(shipped["model_state_dict"])
    tokenizer = Tokenizer.from_file(str(demo.tokenizer_path()))
    tokens = torch.tensor(tokenizer.encode(demo.heldout_path().read_text("utf-8")).ids)
    windows = tokens[: len(tokens) // 513 * 513].view(-1, 513)
    inputs, targets = windows[:, :-1], windows[:, 385:]
    with torch.no_grad():
        late, early = model(inputs)[:, 384:], model(inputs[:, 384:])
    assert F.cross_entropy(late.mT, targets) < F.cross_entropy(early.mT, targets)


def test_the_shipped_teacher_is_an_ordinary_model_of_this_trainer() -> None:
    teacher = load(demo.teacher_path())
    assert demo.teacher_path().stat().st_size <= 2_000_000
    assert teacher["model_config"] == ORDINARY.entries()
    assert "n_kv_groups" not in teacher["model_config"]
    made = teacher["train_config"]
    assert made == asdict(TrainConfig(steps=2000, python=made["python"]))
    weights = teacher["model_state_dict"]
    assert all(weight.dtype == torch.float16 and weight.isfinite().all() for weight in weights.values())
    assert weights["h.3.attn.c_attn.weight"].shape == (3 * 128, 128)
    model = DemoGPT(ORDINARY).eval()
    model.load_state_dict(weights)
    tokens = np.array(
        Tokenizer.from_file(str(demo.tokenizer_path())).encode(demo.heldout_path().read_text("utf-8")).ids
    )
    measured = perplexity(lambda ids: window_logits(model, ids), tokens, ORDINARY.n_positions)
    assert measured == pytest.approx(teacher["val_metrics"]["perplexity"], rel=1e-4)


@given(st.text())
def test_any_text_survives_the_tokenizer(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text).ids) == text


@pytest.mark.parametrize(
    "text", ["naïve café — “quotes”…", "東京 のぞみ", "🙂👩‍👩‍👧", "a\r\n\t  b\n\n\n    c ", "\x00\x7f", ""]
)
def test_text_outside_ascii_survives_the_tokenizer(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_the_tokenizer_matches_the_model(tokenizer: Tokenizer, shipped: dict[str, Any]) -> None:
    assert tokenizer.get_vocab_size() == shipped["model_config"]["vocab_size"]
    assert tokenizer.encode("<|endoftext|>").ids == [tokenizer.token_to_id("<|endoftext|>")]


def test_the_locations_need_no_optional_package() -> None:
    code = "import sys, edgeqkv.demo; print(sorted({'torch', 'tokenizers', 'numpy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
