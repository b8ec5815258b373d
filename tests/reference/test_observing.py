"""The ranges of what a model computes: seen at every place and every position, and nothing that is hidden."""

from __future__ import annotations

import numpy as np
import torch
from conftest import read_encoder_golden, read_golden

import edgeqkv
from edgeqkv.model.activations import Sites
from edgeqkv.reference.observing import observe, sequences_of
from edgeqkv.reference.ops import TorchOps
from edgeqkv.reference.outputs import sequence_logits


def test_logits_reach_as_far_as_the_model_s() -> None:
    model = edgeqkv.load(read_golden("k_eq_v_gqa").path)
    tokens = np.random.default_rng(0).integers(0, model.config.vocab_size, (2, 48))
    found = observe(model, list(tokens))
    logits = np.stack([sequence_logits(model, each) for each in tokens])
    (site,) = (site for site in found.of if site.endswith("logits"))
    assert np.allclose(found.of[site], (logits.min(), logits.max()), rtol=1e-5)


def test_every_position_is_seen() -> None:
    """A position's own row is added wherever it stands: the last one's counts too."""
    model = edgeqkv.load(read_golden("qkv").path).with_context(32)
    table = model.network.position_table
    far = table.tensor.clone()
    far[-1] += 100
    model = model.with_changed_weights(lambda weight: type(weight)(weight.name, far) if weight is table else weight)
    tokens = np.zeros((1, 64), np.int64)
    found = observe(model, sequences_of(tokens, 32))
    (site,) = (site for site in found.of if site.endswith("add_positions"))
    assert found.of[site][1] > 90


def test_scores_that_are_hidden_are_not_seen() -> None:
    """Of queries with what comes after them: no more is seen with a later token than one by one."""
    model = edgeqkv.load(read_golden("mqa").path)
    tokens = np.array([5, 200, 7, 90], np.int64)

    class Scores(TorchOps):
        def attention(self, layer, q, k, v, attention):  # type: ignore[no-untyped-def]
            heads = attention.heads
            queries = q.view(len(q), heads.query, heads.dim).transpose(0, 1) * attention.scale
            keys = k.view(len(k), heads.kv, heads.dim).transpose(0, 1).repeat_interleave(heads.query // heads.kv, 0)
            seen = torch.ones(len(q), len(q)).tril().bool()
            products = (queries @ keys.transpose(1, 2))[:, seen]
            ends.append((float(products.min()), float(products.max())))
            return super().attention(layer, q, k, v, attention)

    ends: list[tuple[float, float]] = []
    with torch.inference_mode():
        model.network.outputs(Scores(), torch.from_numpy(tokens))
    found = [found for site, found in observe(model, [tokens]).of.items() if site.endswith(".products")]
    assert np.allclose(found, ends, rtol=1e-4)


def test_sequences_fill_the_context() -> None:
    tokens = np.arange(100)
    assert [len(each) for each in sequences_of(tokens.reshape(4, 25), 40)] == [40, 40]
    assert [len(each) for each in sequences_of(tokens, 200)] == [100]
    many = sequences_of(np.arange(100_000), 512)
    assert len(many) == 32
    assert many[-1][0] > 90_000


def test_an_encoder_is_observed_on_batches() -> None:
    golden = read_encoder_golden("vit_digits_q_eq_k_eq_v_2d")
    found = observe(edgeqkv.load(golden.path), [golden.inputs[:4], golden.inputs[4:]])
    last = list(found.of)[-1]
    assert last.endswith("linear")
    assert np.allclose(found.of[last], (golden.logits.min(), golden.logits.max()), rtol=1e-3)
    assert found.of["input"] == (float(golden.inputs.min()), float(golden.inputs.max()))
    assert found.widest(".scores") > 0 == found.widest(".nothing")


def test_sites_count_operations() -> None:
    sites = Sites()
    assert [sites.next("norm"), sites.next("linear")] == ["0000.norm", "0001.linear"]
