"""Conversion of whole models: exact where it can be, read by everybody, and refused where it cannot be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torch.nn.functional as F
from authors_gpt import authors_logits
from conftest import ENCODERS, TINY, read_encoder_golden
from hypothesis import given, settings
from hypothesis import strategies as st
from random_networks import HALVES, VOCABULARY, Random

import edgeqkv
from edgeqkv import InputError, UnsupportedError, Variant, VariantError
from edgeqkv.checkpoints.synthetic import random_checkpoint
from edgeqkv.checkpoints.writing import write
from edgeqkv.convert.conversion import converted, layers_seen, rebuilt, windows_of
from edgeqkv.convert.gauge import gauge
from edgeqkv.convert.solve import plain_basis, sides_of, solve
from edgeqkv.convert.statistics import ObservingOps
from edgeqkv.model.layers import Heads, PaddedRows
from edgeqkv.model.model import Model
from edgeqkv.reference.ops import TorchOps
from edgeqkv.reference.outputs import sequence_logits

SIZES = {**TINY, "n_head": 8, "n_embd": 64}
TOKENS = np.random.default_rng(0).integers(0, TINY["vocab_size"], 48 * 8)
CLASSES = {
    "q-k=v": "GPT_QKV_KEqualsV",
    "q-k=v+gqa2": "GPT_Q_GQA",
    "q-k=v+mqa": "GPT_QMQA",
    "qkv+gqa2": "GPT_GQA",
    "qkv+mqa": "GPT_MQA",
}


def sharing_teacher(path: Path, variant: Variant, *, seed: int = 0, use_bias: bool = True) -> Model:
    """An ordinary model whose keys and values share what the variant has room for; which heads share is shuffled."""
    checkpoint = random_checkpoint(Variant.parse("qkv"), seed=seed, std=0.2, use_bias=use_bias, **SIZES)
    generator = torch.Generator().manual_seed(seed)
    heads, dim = SIZES["n_head"], SIZES["n_embd"] // SIZES["n_head"]
    groups, merged = variant.kv_heads_of(heads), variant.sharing.tensors == 1
    for layer in range(SIZES["n_layer"]):
        spaces = torch.randn(groups, 2, dim, SIZES["n_embd"], generator=generator) * 0.2
        owners = torch.arange(groups).repeat(heads // groups)[torch.randperm(heads, generator=generator)]
        fused = checkpoint["model_state_dict"][f"h.{layer}.attn.c_attn.weight"].view(3, heads, dim, -1)
        for head, owner in enumerate(owners):
            for side in (0, 1):
                map_ = torch.randn(dim, dim, generator=generator) * dim**-0.5
                fused[1 + side, head] = map_ @ spaces[owner, 0 if merged else side]
    torch.save(checkpoint, path)
    return edgeqkv.load(path)


def difference(one: Model, other: Model, tokens: npt.NDArray[np.int64] = TOKENS[:40]) -> float:
    """Of the largest logit."""
    logits = sequence_logits(one, tokens)
    return float(np.abs(sequence_logits(other, tokens) - logits).max() / np.abs(logits).max())


@settings(deadline=None, max_examples=12)
@given(st.sampled_from(sorted(CLASSES)), st.integers(0, 999), st.booleans())
def test_a_teacher_that_shares_a_space_converts_exactly(
    tmp_path_factory: pytest.TempPathFactory, name: str, seed: int, use_bias: bool
) -> None:
    path = tmp_path_factory.mktemp("exact") / "model.pt"
    teacher = sharing_teacher(path, Variant.parse(name), seed=seed, use_bias=use_bias)
    result = edgeqkv.convert(teacher, name, tokens=TOKENS)
    assert str(result.variant) == name
    assert difference(teacher, result) <= 1e-4
    assert result.state_bytes(10, 4) < teacher.state_bytes(10, 4)


@pytest.mark.parametrize("name", CLASSES)
def test_what_is_written_is_read_by_everybody(name: str, tmp_path: Path) -> None:
    teacher = sharing_teacher(tmp_path / "teacher.pt", Variant.parse("q-k=v"))  # not exact for most
    result = edgeqkv.convert(teacher, name, tokens=TOKENS)
    write(result, tmp_path / "model.pt")
    expected, scale = sequence_logits(result, TOKENS[:40]), 1e-5
    read = edgeqkv.load(tmp_path / "model.pt")
    assert str(read.variant) == name
    assert read.source.model_class == CLASSES[name]
    np.testing.assert_array_equal(sequence_logits(read, TOKENS[:40]), expected)
    theirs = authors_logits(tmp_path / "model.pt", CLASSES[name], torch.from_numpy(TOKENS[:40])).numpy()
    assert np.abs(theirs - expected).max() <= scale * np.abs(expected).max()


def test_grouped_and_merged_models_can_share_more(tmp_path: Path) -> None:
    for before, after in [
        ("qkv+gqa4", "q-k=v+gqa4"),
        ("q-k=v", "q-k=v+mqa"),
        ("q=k-v", "q-k=v"),
        ("qkv+gqa2", "qkv+mqa"),
    ]:
        torch.save(random_checkpoint(Variant.parse(before), std=0.2, **SIZES), tmp_path / "model.pt")
        result = converted(edgeqkv.load(tmp_path / "model.pt"), after, TOKENS, windows=8)
        assert str(result.model.variant) == after
        assert result.model.config.kv_heads == Variant.parse(after).kv_heads_of(8)
        assert all(0 < lost < 1 for lost in result.lost)
        assert np.isfinite(sequence_logits(result.model, TOKENS[:40])).all()


def test_the_basis_changes_what_is_stored_and_not_what_is_computed(tmp_path: Path) -> None:
    teacher = sharing_teacher(tmp_path / "teacher.pt", Variant.parse("q-k=v"))
    target = Variant.parse("q-k=v+gqa2")
    layers = [*zip(teacher.network.blocks, layers_seen(teacher, windows_of(TOKENS, teacher, 8)), strict=True)]
    even, plain = (
        [solve(block.attention, seen, target, basis=basis) for block, seen in layers] for basis in (gauge, plain_basis)
    )
    models = [rebuilt(teacher, target, [attention for attention, _ in each]) for each in (even, plain)]
    assert difference(*models) <= 1e-4
    assert [lost for _, lost in even] == pytest.approx([lost for _, lost in plain])
    assert not torch.allclose(even[0][0].k.weight.tensor, plain[0][0].k.weight.tensor)


def observed(model: Model, positions: int = 1000) -> Any:
    block = model.network.blocks[0]
    ops = ObservingOps(block.attention, positions, torch.Generator().manual_seed(0))
    y = torch.randn(3, 30, model.config.hidden_size, generator=torch.Generator().manual_seed(1)) + 0.3
    projected = [ops.linear(y, linear) for linear in (block.attention.q, block.attention.k, block.attention.v)]
    ops.attention(0, *projected, block.attention)
    return block.attention, y, projected, ops.statistics()


def head_output(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
    """``[S, C]``: what one head adds to the stream, written out."""
    mask = torch.ones(len(q), len(q), dtype=torch.bool).tril()
    return (q @ k.T * q.shape[1] ** -0.5).masked_fill(~mask, -torch.inf).softmax(-1) @ v @ out.T


def test_what_is_seen_is_the_derivative_of_what_a_head_puts_out(tmp_path: Path) -> None:
    """With one query for all positions, the quadratic form of the keys is exact, as that of the values always is."""
    checkpoint = random_checkpoint(Variant.parse("qkv"), std=0.3, **TINY)
    state, dim = checkpoint["model_state_dict"], 8
    state["h.0.attn.c_attn.weight"][:32] = 0
    state["h.0.attn.c_attn.bias"][:32] *= 5
    torch.save(checkpoint, tmp_path / "model.pt")
    attention, y, (q, k, v), seen = observed(edgeqkv.load(tmp_path / "model.pt"))
    keys, values = sides_of(attention, seen)
    head, rows = 2, slice(16, 24)
    out = attention.out.weight.tensor[:, rows]
    change = torch.randn(dim, 32, generator=torch.Generator().manual_seed(2))
    squares, outputs = [], []
    for sequence in range(3):
        at = (q[sequence, :, rows], k[sequence, :, rows], v[sequence, :, rows])
        moved = y[sequence] @ change.T
        _, by_keys = torch.autograd.functional.jvp(lambda k, at=at: head_output(at[0], k, at[2], out), at[1], moved)
        squares.append(by_keys[8:].square().sum(-1))  # earlier positions are not looked at
        outputs.append(head_output(at[0], at[1], moved, out)[8:])
    form = keys[head].outputs @ change.double() @ seen.keys[head].double() @ change.T.double()
    assert float(form.trace()) == pytest.approx(float(torch.cat(squares).mean()), rel=1e-4)
    mixed = torch.cat(outputs)
    variance = (mixed - mixed.mean(0)).square().sum(-1).mean()
    form = values[head].outputs @ change.double() @ seen.values[head].double() @ change.T.double()
    assert float(form.trace()) == pytest.approx(float(variance), rel=1e-4)


def test_both_ways_to_sum_up_the_keys_come_to_the_same(tmp_path: Path) -> None:
    """Positions that nothing attends to change nothing, but that the other product is the smaller one."""
    torch.save(random_checkpoint(Variant.parse("qkv"), **TINY), tmp_path / "model.pt")
    attention = edgeqkv.load(tmp_path / "model.pt").network.blocks[0].attention
    generator = torch.Generator().manual_seed(0)
    scores, u, y = (torch.randn(shape, generator=generator) for shape in ((5, 30), (30, 8), (30, 32)))
    sums = []
    for more in (0, 30):  # 5 queries of 8 numbers are more than 30 positions, and fewer than 60
        ops = ObservingOps(attention, 5, generator)
        p, rows = F.pad(scores.softmax(-1), (0, more)), (0, 0, 0, more)
        ops._observe_keys(0, F.pad(scores, (0, more)), p, F.pad(u, rows), F.pad(y, rows))
        sums.append(ops._keys[0])
    torch.testing.assert_close(*sums)


def test_an_error_in_proportion_to_the_keys_counts_as_it_does(tmp_path: Path) -> None:
    """Whatever queries and scores have to do with each other."""
    torch.save(random_checkpoint(Variant.parse("qkv"), std=0.3, **TINY), tmp_path / "model.pt")
    attention, y, (q, k, v), seen = observed(edgeqkv.load(tmp_path / "model.pt"))
    keys, _ = sides_of(attention, seen)
    head, rows = 3, slice(24, 32)
    out, change = attention.out.weight.tensor[:, rows], attention.k.weight.tensor[rows]
    squares = []
    for sequence in range(3):
        at = (q[sequence, :, rows], k[sequence, :, rows], v[sequence, :, rows])
        moved = y[sequence] @ change.T
        _, output = torch.autograd.functional.jvp(lambda k, at=at: head_output(at[0], k, at[2], out), at[1], moved)
        squares.append(output[8:].square().sum(-1))
    form = keys[head].outputs @ change.double() @ seen.keys[head].double() @ change.T.double()
    assert float(form.trace()) == pytest.approx(float(torch.cat(squares).mean()), rel=1e-3)


def test_noise_counts_as_it_changes_what_a_head_puts_out(tmp_path: Path) -> None:
    torch.save(random_checkpoint(Variant.parse("qkv"), std=0.3, **TINY), tmp_path / "model.pt")
    attention, _, (q, k, v), seen = observed(edgeqkv.load(tmp_path / "model.pt"))
    head, rows = 1, slice(8, 16)
    out = attention.out.weight.tensor[:, rows]
    generator, squares = torch.Generator().manual_seed(3), []
    for sequence in range(3):
        at = (q[sequence, :, rows], k[sequence, :, rows], v[sequence, :, rows])
        for _ in range(300):
            noise = torch.randn(at[2].shape, generator=generator)
            squares.append(head_output(at[0], at[1], noise, out)[8:].square().sum(-1).mean())
    expected = float(seen.value_noise[head]) * float(out.square().sum())
    assert expected == pytest.approx(float(torch.stack(squares).mean()), rel=0.05)


def test_a_window_of_attention_is_respected() -> None:
    random = Random()
    attention = random.attention(Heads(2, 2, 12), window=4)
    model = random.model([random.block(attention)], learned=True)
    tokens = np.random.default_rng(0).integers(0, VOCABULARY, (6, 40))
    result = edgeqkv.convert(model, "q-k=v", tokens=tokens)
    assert result.network.blocks[0].attention.window == 4
    ops = ObservingOps(attention, 30, torch.Generator().manual_seed(0))
    model.network.outputs(ops, torch.from_numpy(tokens))
    # four places share all of the attention, so that the squares of their parts add up to a quarter or more
    assert ops.statistics().value_noise.min() >= 0.25


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"rope": HALVES}, "layer 0 of random rotates queries and keys"),
        ({"softcap": 5.0}, "layer 0 of random caps its scores"),
        ({"q_norm": Random().rms(8)}, "layer 0 of random normalizes its queries or keys"),
        ({"rows": PaddedRows(HALVES)}, "layer 0 of random has one row for keys and values already"),
    ],
)
def test_what_no_map_passes_is_refused_with_the_reason(rules: dict[str, Any], message: str) -> None:
    random = Random()
    model = random.model([random.block(random.attention(**rules))], learned=True)
    with pytest.raises(UnsupportedError, match=message):
        edgeqkv.convert(model, "q-k=v+mqa", tokens=TOKENS % VOCABULARY)


def test_a_bias_that_nothing_could_take_up_is_refused() -> None:
    random = Random()
    attention = random.attention(Heads(2, 2, 12))
    object.__setattr__(attention, "v", random.linear(24, 24, bias=True))
    model = random.model([random.block(attention)], learned=True)
    with pytest.raises(UnsupportedError, match="a bias on its values and none on its output"):
        edgeqkv.convert(model, "q-k=v", tokens=TOKENS % VOCABULARY)


@pytest.mark.parametrize(
    ("variant", "error", "message"),
    [
        ("q=k-v", UnsupportedError, "nothing takes up a difference of queries and keys"),
        ("q=k=v", UnsupportedError, "nothing converts to q=k=v"),
        ("qvv3", UnsupportedError, "it computes what q-k=v does"),
        ("q-k=v+2d", UnsupportedError, "the 2-D position term is trained into a model"),
        ("qkv", InputError, r"is qkv, and qkv would store no less; choose .* such as q-k=v"),
        ("qkv+gqa3", VariantError, "8 query heads do not divide among 3"),
        ("nonsense", VariantError, "unknown variant 'nonsense'"),
    ],
)
def test_variants_out_of_reach_are_refused_with_the_reason(
    variant: str, error: type[Exception], message: str, tmp_path: Path
) -> None:
    torch.save(random_checkpoint(Variant.parse("qkv"), **SIZES), tmp_path / "model.pt")
    with pytest.raises(error, match=message):
        edgeqkv.convert(edgeqkv.load(tmp_path / "model.pt"), variant, tokens=TOKENS)


def test_encoders_are_refused() -> None:
    encoder = edgeqkv.load(read_encoder_golden(next(iter(ENCODERS))).path)
    with pytest.raises(InputError, match="is an encoder"):
        edgeqkv.convert(encoder, "q-k=v", tokens=TOKENS)


def test_windows_are_spread_over_the_text(tmp_path: Path) -> None:
    torch.save(random_checkpoint(Variant.parse("qkv"), **SIZES), tmp_path / "model.pt")
    model = edgeqkv.load(tmp_path / "model.pt")
    text = np.arange(96) % 97
    assert windows_of(text[:60], model, 9).tolist() == [list(range(48))]
    assert windows_of(text, model, 9).tolist() == [list(range(48)), list(range(48, 96))]
    assert windows_of(text.reshape(4, 24), model, 2).shape == (2, 24)
    for tokens, windows, message in [
        (text[:20], 9, "a text of 48 tokens or more"),
        (text.reshape(1, 96), 9, "windows of 2 to 48 tokens"),
        (text, 0, "0 windows"),
        (text + 5, 9, "not all between 0 and 96"),
    ]:
        with pytest.raises(InputError, match=message):
            windows_of(tokens, model, windows)


def test_observing_changes_nothing(tmp_path: Path) -> None:
    torch.save(random_checkpoint(Variant.parse("qkv+gqa2"), std=0.2, **SIZES), tmp_path / "model.pt")
    model = edgeqkv.load(tmp_path / "model.pt")
    ids = torch.from_numpy(TOKENS[:80].reshape(2, 40))
    ops = ObservingOps(model.network.blocks[1].attention, 5, torch.Generator().manual_seed(0))
    assert torch.equal(model.network.outputs(ops, ids), model.network.outputs(TorchOps(), ids))
