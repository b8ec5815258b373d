"""One row for keys and values beside the two apart, in ONNX Runtime: decoding at two fills, on one thread.

    python -m benchmarks.rows [--repeats N]

A layer of Gemma 4's global kind and one of latent attention, each beside a layer of the same heads that keeps keys and
values apart. Random weights and an empty state: neither time nor memory depends on the values. All sessions are in one
process and take turns, a few tokens each, in another order each time.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
import transformers

import edgeqkv
from benchmarks.measure import save
from edgeqkv.backends import backend
from edgeqkv.backends.onnx.runner import OnnxRunner
from edgeqkv.backends.target import TargetSpec
from edgeqkv.checkpoints.huggingface import quiet
from edgeqkv.extras import installed_version
from edgeqkv.progress import silent
from edgeqkv.run.session import Session

CONTEXT = 8192
FILLS = (2047, 8180)
TOKENS = 5  # a turn; the first finds nothing of its own in the caches

BASE: dict[str, Any] = {
    "vocab_size": 512,
    "hidden_size": 1024,
    "intermediate_size": 1024,
    "num_hidden_layers": 1,
    "num_attention_heads": 8,
    "max_position_embeddings": CONTEXT,
    "pad_token_id": 0,
}
GLOBAL = BASE | {
    "layer_types": ["full_attention"],
    "num_key_value_heads": 2,
    "num_global_key_value_heads": 2,
    "head_dim": 256,
    "global_head_dim": 256,
    "hidden_size_per_layer_input": 0,
    "vocab_size_per_layer_input": 512,
}
LATENT = BASE | {
    "num_key_value_heads": 8,
    "first_k_dense_replace": 1,
    "kv_lora_rank": 512,
    "q_lora_rank": None,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "keys and values in a row": ("gemma4_text", GLOBAL | {"attention_k_eq_v": True}),
    "keys and values apart": ("gemma4_text", GLOBAL | {"attention_k_eq_v": False}),
    "latent row": ("deepseek_v3", LATENT),
    # Of every head a key of 192 channels and a value of 128, as two of their mean.
    "latent, keys and values apart": ("llama", BASE | {"num_key_value_heads": 8, "head_dim": 160}),
}
PEERS = {"keys and values in a row": "keys and values apart", "latent row": "latent, keys and values apart"}


def opened(kind: str, config: dict[str, Any], form: str, folder: Path) -> Session:
    torch.manual_seed(0)
    with quiet("making a model"):
        made = transformers.AutoConfig.for_model(kind, **config)
        transformers.AutoModelForCausalLM.from_config(made, dtype=torch.float32).save_pretrained(folder / "model")
    model = edgeqkv.load(folder / "model")
    (folder / "out").mkdir()
    spec = TargetSpec(form, "fp32", "fp32", CONTEXT, 16)
    artifact = backend("onnx").export(model, folder / "out", spec, silent)
    return Session(artifact, OnnxRunner(folder / "out", artifact, "onnxruntime", threads=1))


def turn(session: Session, fill: int) -> list[float]:
    """Milliseconds of each token but the first."""
    times = []
    for position in range(fill, fill + TOKENS):
        start = time.perf_counter()
        session._step(np.array([1]), position)
        times.append((time.perf_counter() - start) * 1e3)
    return times[1:]


def compare(form: str, repeats: int) -> dict[str, dict[str, Any]]:
    with tempfile.TemporaryDirectory(prefix="edgeqkv-rows-") as folder:
        sessions = {}
        for number, (name, (kind, config)) in enumerate(CASES.items()):
            place = Path(folder) / str(number)
            place.mkdir()
            sessions[name] = opened(kind, config, form, place)
        times: dict[str, dict[int, list[float]]] = {name: {fill: [] for fill in FILLS} for name in CASES}
        order = random.Random(0)
        for _ in range(repeats):
            for fill in FILLS:
                for name in order.sample(list(CASES), len(CASES)):
                    times[name][fill] += turn(sessions[name], fill)
        rows: dict[str, dict[str, Any]] = {}
        for name, session in sessions.items():
            decode = {
                fill: {"min": round(min(ms), 3), "median": round(median(ms), 3)} for fill, ms in times[name].items()
            }
            rows[name] = {"state_bytes": session.state_bytes, "decode_ms": decode}
    for name, peer in PEERS.items():
        own, other = rows[name], rows[peer]
        own["state_over_peer"] = own["state_bytes"] / other["state_bytes"]
        for what in ("min", "median"):
            own[f"{what}_over_peer"] = {
                fill: round(own["decode_ms"][fill][what] / other["decode_ms"][fill][what], 3) for fill in FILLS
            }
        print(
            f"{form}, {name}: state {own['state_over_peer']:.3f}, decode {own['min_over_peer']} (least), "
            f"{own['median_over_peer']} (median) of the peer's"
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=40)
    repeats = parser.parse_args().repeats
    results = {form: compare(form, repeats) for form in ("portable", "ort")}
    save("rows", {"context": CONTEXT, "threads": 1, "onnxruntime": installed_version("onnxruntime"), "forms": results})


if __name__ == "__main__":
    main()
