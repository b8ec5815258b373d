"""What conversion costs: perplexity above the teacher's, by method, variant and seed.

    python -m benchmarks.convert [--size tiny|1m|10m] [--seeds 1 2 3] [--distill] [--scratch] [--rounds] [--shipped]

Teachers are ordinary models of the demo's architecture, trained here on the text that this Python installation carries
and kept in ``build/convert`` for the next time; ``--shipped`` takes the one that the package ships instead. Seeds that
were measured before stay in the results, so that they can be measured one by one.

Conversion is calibrated on the training text. Choices (ridge, grouping, whether distillation is kept) were made on
``validation``: the prose of numpy's docstrings, which no model was trained on. What counts is ``test``: the reference
topics that are held out of training and calibration; the basis alone was chosen with a part of them in sight.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer

import edgeqkv
from benchmarks.measure import RESULTS, save
from edgeqkv import demo
from edgeqkv.convert.conversion import layers_seen, rebuilt, windows_of
from edgeqkv.convert.distill import Schedule, distilled
from edgeqkv.convert.solve import Sides, plain_basis, sides_of, solve
from edgeqkv.convert.statistics import LayerStatistics
from edgeqkv.convert.subspace import Projection
from edgeqkv.demo.corpus import Corpus, prose_of, read_corpus
from edgeqkv.demo.train import ORDINARY, ModelConfig, TrainConfig, perplexity, train
from edgeqkv.model.layers import Attention, Heads, Linear
from edgeqkv.model.model import Model
from edgeqkv.model.variants import Variant
from edgeqkv.model.weights import Weight
from edgeqkv.quantize import QuantConfig, apply
from edgeqkv.quantize.state import with_state
from edgeqkv.reference.outputs import sequence_logits

Tokens = npt.NDArray[np.int64]

VARIANTS = ("q-k=v", "q-k=v+gqa4", "q-k=v+gqa2", "q-k=v+mqa", "qkv+gqa4", "qkv+gqa2")
HEALED = ("q-k=v", "q-k=v+gqa2")  # what is distilled, or trained from scratch, too
WINDOWS = 48
BATCH = TrainConfig.batch_size
SHARE = 0.05  # of the teacher's tokens, for distillation
BUILT = Path("build/convert")


@dataclass(frozen=True)
class Size:
    """A teacher and how it is trained."""

    shape: ModelConfig
    steps: int


SIZES = {
    "tiny": Size(replace(ORDINARY, n_layer=3, n_embd=64, n_inner=256, n_positions=128), 1500),
    "1m": Size(ORDINARY, 5000),
    "10m": Size(replace(ORDINARY, n_layer=6, n_embd=384, n_inner=1536, initializer_range=0.05), 10000),
}


def as_weights(attention: Attention, seen: LayerStatistics, of_inputs: Callable[[LayerStatistics], Any]) -> Sides:
    """Every output of keys and values counts alike, and inputs as is said."""
    inputs = of_inputs(seen)
    one = torch.eye(attention.heads.dim, dtype=torch.float64)
    keys, values = sides_of(attention, seen)
    return [Projection(p.weight, inputs, one) for p in keys], [Projection(p.weight, inputs, one) for p in values]


def baseline(of_inputs: Callable[[LayerStatistics], Any]) -> Solver:
    """Conversion by the weights and, where it says, the covariance of their inputs alone."""

    def solver(attention: Attention, seen: LayerStatistics, variant: Variant, layer: int) -> tuple[Attention, float]:
        plain = replace(seen, value_means=seen.mean.expand(attention.heads.query, -1))
        sides = as_weights(attention, seen, of_inputs)
        return solve(attention, plain, variant, layer, sides=sides, basis=plain_basis)

    return solver


def naive(attention: Attention, seen: LayerStatistics, variant: Variant, layer: int) -> tuple[Attention, float]:
    """Values become the keys, and the heads of a group their mean (Ainslie et al., 2023)."""
    query, _, dim = attention.heads
    groups = variant.kv_heads_of(query)

    def pooled(linear: Linear) -> Linear:
        assert linear.bias is not None
        weight = linear.weight.values().view(groups, query // groups, dim, -1).mean(1).flatten(0, 1)
        bias = linear.bias.values().view(groups, query // groups, dim).mean(1).flatten()
        return Linear(Weight("pooled", weight), Weight("pooled", bias))

    k = pooled(attention.k)
    v = k if variant.sharing.tensors == 1 else pooled(attention.v)
    return replace(attention, k=k, v=v, heads=Heads(query, groups, dim)), math.nan


Solver = Callable[[Attention, LayerStatistics, Variant, int], tuple[Attention, float]]

METHODS: dict[str, Solver] = {
    "naive": naive,
    "weights": baseline(lambda seen: torch.eye(len(seen.covariance), dtype=torch.float64)),
    "covariance": baseline(lambda seen: seen.covariance),
    "plain basis": partial(solve, basis=plain_basis),
    "ours": solve,
}


class Texts:
    """Token streams of one tokenizer."""

    def __init__(self, corpus: Corpus, tokenizer: Tokenizer) -> None:
        def encoded(text: str) -> Tokens:
            return np.array(tokenizer.encode(text).ids, dtype=np.int64)

        documents = corpus.reference + corpus.library
        self.training = encoded("\n\n".join(documents[:: max(1, len(documents) // 150)]))
        self.test = encoded(corpus.heldout)
        prose = (text for text in prose_of(Path(np.__file__).parent) if text)
        self.validation = encoded("\n\n".join(prose))[: len(self.test)]


def measure(model: Model, tokens: Tokens) -> float:
    """Perplexity over windows of the model's length, each token but the first predicted once."""
    return perplexity(lambda ids: sequence_logits(model, ids), tokens, model.config.positions)


def of_teacher(
    teacher: Model, texts: Texts, variants: Sequence[str], *, rounds: bool, distil: int | None
) -> list[dict[str, Any]]:
    """Rows of every method and variant, and of what ``distil`` steps of distillation make of the first and the last."""
    before = {split: measure(teacher, getattr(texts, split)) for split in ("validation", "test")}
    rows: list[dict[str, Any]] = [{"method": "teacher", "perplexity": before}]
    seen = list(layers_seen(teacher, windows_of(texts.training, teacher, WINDOWS)))
    for name in variants:
        target = Variant.parse(name)
        for method, solver in METHODS.items():
            layers = enumerate(zip(teacher.network.blocks, seen, strict=True))
            solved = [solver(block.attention, each, target, layer) for layer, (block, each) in layers]
            model = rebuilt(teacher, target, [attention for attention, _ in solved])
            row: dict[str, Any] = {"variant": name, "method": method, "lost": [round(lost, 5) for _, lost in solved]}
            if method != "plain basis":  # which differs from ours in what rounding does to it alone
                row |= above(model, texts, before)
            if rounds and method in ("plain basis", "ours"):
                row["rounded"] = rounded(model, texts)
            rows.append(row)
            print(row, flush=True)
            if distil and name in HEALED and method in ("naive", "ours"):
                learned = distilled(teacher, model, texts.training, Schedule(steps=distil, batch=BATCH))
                rows.append({"variant": name, "method": f"{method}, distilled"} | above(learned, texts, before))
                print(rows[-1], flush=True)
    return rows


def above(model: Model, texts: Texts, before: dict[str, float]) -> dict[str, float]:
    """By how much the perplexity is above the teacher's, as a part of it."""
    return {split: round(measure(model, getattr(texts, split)) / before[split] - 1, 5) for split in before}


def rounded(model: Model, texts: Texts) -> dict[str, float]:
    """By how much rounding what is stored adds, on the test text."""
    plain = measure(model, texts.test)
    length = model.config.positions
    windows = texts.training[: len(texts.training) // length * length].reshape(-1, length)
    cases = {
        "int8 state": with_state(model, "int8", windows),
        "int4": apply(model, QuantConfig("int4")),
        "int4, int8 state": with_state(apply(model, QuantConfig("int4")), "int8", windows),
    }
    return {case: round(measure(each, texts.test) / plain - 1, 5) for case, each in cases.items()}


def trained(size: Size, shape: ModelConfig, seed: int, corpus: Corpus, folder: Path) -> Model:
    """A model of that shape, trained for the size's steps; the one in the folder, if it is there."""
    path = folder / "model.pt"
    if not path.exists():
        train(folder, shape, TrainConfig(steps=size.steps, seed=seed), corpus)
    return edgeqkv.load(path)


def of_seed(size: Size, seed: int, corpus: Corpus, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Rows of one teacher."""
    folder = BUILT / f"{options.size}-{size.steps}-{seed}"
    teacher = edgeqkv.load(demo.teacher_path()) if options.shipped else trained(size, size.shape, seed, corpus, folder)
    beside = demo.teacher_path().parent if options.shipped else folder
    texts = Texts(corpus, Tokenizer.from_file(str(beside / "tokenizer.json")))
    distil = round(SHARE * size.steps) if options.distill else None
    rows = of_teacher(teacher, texts, options.variants, rounds=options.rounds, distil=distil)
    for variant in HEALED if options.scratch and not options.shipped else ():
        groups = Variant.parse(variant).kv_heads_of(size.shape.n_head)
        model = trained(size, replace(size.shape, n_kv_groups=groups), seed, corpus, folder / variant)
        rows.append({"variant": variant, "method": "scratch"} | above(model, texts, rows[0]["perplexity"]))
        print(rows[-1], flush=True)
    return [{"seed": seed, **row} for row in rows]


def main() -> None:
    """Measure, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=SIZES, default="tiny")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--steps", type=int, help="of the teacher's training, if not the size's own")
    parser.add_argument("--distill", action="store_true", help="distil for 5 %% of the teacher's tokens too")
    parser.add_argument("--scratch", action="store_true", help="train the variants from scratch too")
    parser.add_argument("--shipped", action="store_true", help="the teacher that the package ships")
    parser.add_argument("--rounds", action="store_true", help="measure what an int8 state and int4 weights cost too")
    parser.add_argument("--variants", nargs="+", default=VARIANTS)
    options = parser.parse_args()
    size = SIZES["1m" if options.shipped else options.size]
    if options.steps:
        size = replace(size, steps=options.steps)
    corpus = read_corpus()
    name = "shipped" if options.shipped else options.size
    path = RESULTS / "convert.json"
    for seed in [1] if options.shipped else options.seeds:
        rows = of_seed(size, seed, corpus, options)
        kept = json.loads(path.read_text())["results"] if path.exists() else {}
        before = kept.get(name, {"steps": size.steps, "rows": []})
        others = [row for row in before["rows"] if row["seed"] != seed and before["steps"] == size.steps]
        save("convert", {**kept, name: {"steps": size.steps, "rows": [*others, *rows]}})


if __name__ == "__main__":
    main()
