"""The authors' language models, transcribed: one module for the classes whose queries are their own.

``state_dict()`` has the names and shapes of ``GPT``, ``GPT_GQA``, ``GPT_MQA``, ``GPT_QKV_KEqualsV``, ``GPT_Q_GQA`` and
``GPT_QMQA``; attention is written out with a mask, and shares no code with the package.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FUSED = {
    "GPT": "c_attn",
    "GPT_GQA": "c_kv",
    "GPT_MQA": "c_kv",
    "GPT_QKV_KEqualsV": "c_k",
    "GPT_Q_GQA": "c_k",
    "GPT_QMQA": "c_kv",
}


class Attention(nn.Module):
    def __init__(self, config: dict[str, Any], name: str) -> None:
        super().__init__()
        self.name, self.heads, width = name, config["n_head"], config["n_embd"]
        self.dim = width // self.heads
        self.groups = {"GPT": self.heads, "GPT_QKV_KEqualsV": self.heads}.get(name, config.get("n_kv_groups", 1))
        kv, bias = self.groups * self.dim, config.get("use_bias", True)
        if name == "GPT":
            self.c_attn = nn.Linear(width, 3 * width, bias=bias)
        else:
            self.c_q = nn.Linear(width, width, bias=bias)
            rows = 2 * kv if name in ("GPT_GQA", "GPT_MQA") else kv
            setattr(self, FUSED[name], nn.Linear(width, rows, bias=bias))
        self.c_proj = nn.Linear(width, width, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        fused = getattr(self, FUSED[self.name])(x)
        if self.name == "GPT":
            q, k, v = fused.chunk(3, -1)
        elif self.name in ("GPT_GQA", "GPT_MQA"):
            (k, v), q = fused.chunk(2, -1), self.c_q(x)
        else:
            q, k, v = self.c_q(x), fused, fused
        q, k, v = (t.view(*t.shape[:2], -1, self.dim).transpose(1, 2) for t in (q, k, v))
        k, v = (t.repeat_interleave(self.heads // self.groups, 1) for t in (k, v))
        scores = q @ k.transpose(-1, -2) / math.sqrt(self.dim)
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool).tril()
        mixed = scores.masked_fill(~mask, -math.inf).softmax(-1) @ v
        return self.c_proj(mixed.transpose(1, 2).flatten(2))


class Block(nn.Module):
    def __init__(self, config: dict[str, Any], name: str) -> None:
        super().__init__()
        width, inner, bias = config["n_embd"], config["n_inner"], config.get("use_bias", True)
        self.ln_1, self.ln_2 = (nn.LayerNorm(width, config["layer_norm_epsilon"]) for _ in range(2))
        self.attn = Attention(config, name)
        self.mlp = nn.ModuleDict(
            {"c_fc": nn.Linear(width, inner, bias=bias), "c_proj": nn.Linear(inner, width, bias=bias)}
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp["c_proj"](F.gelu(self.mlp["c_fc"](self.ln_2(x))))


class AuthorsGPT(nn.Module):
    """The class ``name`` of these sizes."""

    def __init__(self, config: dict[str, Any], name: str) -> None:
        super().__init__()
        self.wte = nn.Embedding(config["vocab_size"], config["n_embd"])
        self.wpe = nn.Embedding(config["n_positions"], config["n_embd"])
        self.h = nn.ModuleList(Block(config, name) for _ in range(config["n_layer"]))
        self.ln_f = nn.LayerNorm(config["n_embd"], config["layer_norm_epsilon"])

    def forward(self, ids: Tensor) -> Tensor:
        x = self.wte(ids) + self.wpe(torch.arange(ids.shape[-1]))
        for block in self.h:
            x = block(x)
        return F.linear(self.ln_f(x), self.wte.weight)


def authors_logits(path: Path, name: str, ids: Tensor) -> Tensor:
    """``[S, vocabulary]``: what the class makes of a checkpoint file that holds its tensors and no others."""
    checkpoint = torch.load(path, weights_only=True)
    model = AuthorsGPT(checkpoint["model_config"], name)
    model.load_state_dict(checkpoint["model_state_dict"])  # strict
    with torch.no_grad():
        logits: Tensor = model(ids[None])[0]
    return logits
