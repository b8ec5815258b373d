"""Train the demo models from text that every CPython installation carries: `python -m edgeqkv.demo.train`.

The text is that of `edgeqkv.demo.corpus`.

The same Python version, seed, thread count and machine give the same weights. The result is three files:
`model.pt` (the layout of a `final_model.pt`), `tokenizer.json` and `heldout.txt`. With `--ordinary` the model is one of
separate keys and values, for conversion to start from; the tokenizer and the held-out text are the same.
"""

from __future__ import annotations

import math
import platform
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import typer
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor, nn, optim
from torch.overrides import TorchFunctionMode

from edgeqkv.demo.corpus import Corpus, read_corpus

__all__ = ["ORDINARY", "Corpus", "DemoGPT", "ModelConfig", "TrainConfig", "perplexity", "read_corpus", "train"]

END_OF_TEXT = "<|endoftext|>"
Tokens = NDArray[np.int64]
Logits = NDArray[np.float32]


@dataclass(frozen=True)
class ModelConfig:
    """`model_config` of the checkpoint, under the names that the authors' scripts give them.

    Without `n_kv_groups` it is an ordinary model, whose every query head has keys and values of its own.
    """

    vocab_size: int = 1024
    n_positions: int = 512
    n_layer: int = 4
    n_embd: int = 128
    n_head: int = 4
    n_kv_groups: int | None = 2
    n_inner: int = 512
    embd_pdrop: float = 0.0
    resid_pdrop: float = 0.05
    attn_pdrop: float = 0.0
    layer_norm_epsilon: float = 1e-5
    initializer_range: float = 0.08
    use_bias: bool = True
    tie_word_embeddings: bool = True
    use_flash_attention: bool = False

    def entries(self) -> dict[str, float]:
        """What the checkpoint says of it: an ordinary model has no groups to speak of."""
        return {name: value for name, value in asdict(self).items() if value is not None}


ORDINARY = ModelConfig(n_positions=256, n_head=8, n_kv_groups=None)
"""The teacher that the package ships, `edgeqkv.demo.teacher_path`."""


@dataclass(frozen=True)
class TrainConfig:
    """`train_config` of the checkpoint: what decides the weights besides the text."""

    steps: int = 5000
    batch_size: int = 8
    reference_share: float = 0.4
    learning_rate: float = 3e-3
    muon_learning_rate: float = 2e-2
    warmup_steps: int = 100
    weight_decay: float = 0.1
    report_interval: int = 250
    seed: int = 1
    python: str = platform.python_version()


def train_tokenizer(documents: list[str], vocab_size: int) -> Tokenizer:
    """Byte-level BPE: any UTF-8 text goes through unchanged, because all 256 bytes are tokens."""
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = byte_level, decoders.ByteLevel()
    alphabet, special = byte_level.alphabet(), [END_OF_TEXT]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(documents, trainer)
    return tokenizer


class DemoGPT(nn.Module):
    """GPT-2, with Q-K=V attention over shared heads unless it is ordinary.

    `state_dict()` has the keys of class `GPT_Q_GQA`, or of class `GPT`.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)
        self.wpe = nn.Embedding(config.n_positions, config.n_embd)
        self.drop = nn.Dropout(config.embd_pdrop)
        self.h = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.ln_f = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        for name, weight in self.named_parameters():
            if weight.dim() == 2:
                residual_scale = (2 * config.n_layer) ** -0.5 if "c_proj" in name else 1.0
                nn.init.normal_(weight, std=config.initializer_range * residual_scale)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits `[batch, length, vocab]` of tokens `[batch, length]`; `length` at most `n_positions`."""
        x = self.drop(self.wte(tokens) + self.wpe.weight[: tokens.shape[1]])
        for block in self.h:
            x = block(x)
        return F.linear(self.ln_f(x), self.wte.weight)


class Block(nn.Module):
    """Pre-LayerNorm transformer block, `[batch, length, n_embd]` to the same."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width, self.groups = config.n_embd, config.n_kv_groups or config.n_head
        self.head_dim = width // config.n_head
        kv_width = self.groups * self.head_dim
        self.ln_1 = nn.LayerNorm(width, eps=config.layer_norm_epsilon)
        shapes = {"c_q": (width, width), "c_k": (width, kv_width)}
        if config.n_kv_groups is None:
            shapes = {"c_attn": (width, 3 * width)}
        shapes["c_proj"] = (width, width)
        self.attn = nn.ModuleDict({name: nn.Linear(*shape) for name, shape in shapes.items()})
        self.ln_2 = nn.LayerNorm(width, eps=config.layer_norm_epsilon)
        shapes = {"c_fc": (width, config.n_inner), "c_proj": (config.n_inner, width)}
        self.mlp = nn.ModuleDict({name: nn.Linear(*shape) for name, shape in shapes.items()})
        self.drop = nn.Dropout(config.resid_pdrop)

    def forward(self, x: Tensor) -> Tensor:
        attn, mlp = self.attn, self.mlp
        y = self.ln_1(x)
        if "c_attn" in attn:
            q, k, v = attn["c_attn"](y).chunk(3, dim=-1)
        else:
            q, k = attn["c_q"](y), attn["c_k"](y)
            v = k
        x = x + self.drop(attn["c_proj"](self._attend(q, k, v)))
        out: Tensor = x + self.drop(mlp["c_proj"](F.gelu(mlp["c_fc"](self.ln_2(x)))))
        return out

    def _attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Causal attention; neighbouring query heads share a head of keys and values.

        In strips of queries that skip the keys ahead: three times as fast as PyTorch's fused one on a CPU.
        """
        batch, length, _ = q.shape
        q = (q * self.head_dim**-0.5).view(batch, length, self.groups, -1, self.head_dim).permute(0, 2, 3, 1, 4)
        k, v = (x.view(batch, length, self.groups, 1, self.head_dim).permute(0, 2, 3, 1, 4) for x in (k, v))
        strips = []
        for start in range(0, length, 128):
            stop = start + 128
            scores = q[..., start:stop, :] @ k[..., :stop, :].transpose(-1, -2)
            future = torch.full(scores.shape[-2:], -math.inf, dtype=scores.dtype).triu(start + 1)
            strips.append((scores + future).softmax(-1) @ v[..., :stop, :])
        return torch.cat(strips, dim=-2).permute(0, 3, 1, 2, 4).flatten(2)


def perplexity(logits_of: Callable[[Tokens], Logits], tokens: Tokens, window: int) -> float:
    """`exp` of the mean nats per token over `tokens[1:]`, which must not be empty.

    Each window starts from an empty state and reads `window` tokens that no other window reads; all of them
    predict their successor, the last one that of the next window. So every token but the very first is
    predicted exactly once. `logits_of` maps int64 `[length]` to `[length, vocab]`.
    """
    nats = 0.0
    for start in range(0, len(tokens) - 1, window):
        targets = tokens[start + 1 : start + 1 + window]
        logits = logits_of(tokens[start : start + len(targets)]).astype(np.float64)
        chosen = logits[np.arange(len(targets)), targets]
        nats += float((np.logaddexp.reduce(logits, axis=-1) - chosen).sum())
    return math.exp(nats / (len(tokens) - 1))


def _computes_bfloat16() -> bool:
    """Whether this processor has instructions for it: where it must be emulated, float32 takes half of the time."""
    found = torch.cpu.get_capabilities()
    return any(found.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))


class _InFloat32(TorchFunctionMode):
    """What would be rounded to bfloat16 stays as it is: Muon does so, and emulated that is two thirds of a step."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.bfloat16:
            return args[0].clone()  # what follows writes over it
        return func(*args, **(kwargs or {}))


def train(out: Path, shape: ModelConfig, config: TrainConfig, corpus: Corpus) -> None:
    """Train, and write `model.pt`, `tokenizer.json` and `heldout.txt` to the folder `out`."""
    torch.manual_seed(config.seed)
    out.mkdir(parents=True, exist_ok=True)
    (out / "heldout.txt").write_text(corpus.heldout, encoding="utf-8", newline="\n")
    tokenizer = train_tokenizer(corpus.reference + corpus.library, shape.vocab_size)
    tokenizer.save(str(out / "tokenizer.json"))
    heldout = np.array(tokenizer.encode(corpus.heldout).ids)
    streams = [
        torch.tensor(tokenizer.encode("".join(text + END_OF_TEXT for text in texts)).ids)
        for texts in (corpus.reference, corpus.library)
    ]
    typer.echo(f"tokens: {len(streams[0])} reference, {len(streams[1])} library, {len(heldout)} held out")
    model = DemoGPT(shape)
    optimizers = _optimizers(model, config)
    losses, started, in_bfloat16 = list[float](), time.monotonic(), _computes_bfloat16()
    for step in range(1, config.steps + 1):
        windows = _sample_windows(streams, shape.n_positions, config)
        with torch.autocast("cpu", torch.bfloat16, enabled=in_bfloat16):
            logits = model(windows[:, :-1])
        loss = F.cross_entropy(logits.flatten(0, 1).float(), windows[:, 1:].flatten())
        model.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        cosine = 0.5 * (1 + math.cos(math.pi * step / config.steps))
        for optimizer, peak in optimizers:
            optimizer.param_groups[0]["lr"] = peak * min(1.0, step / config.warmup_steps) * cosine
            with nullcontext() if in_bfloat16 else _InFloat32():
                optimizer.step()
        losses.append(loss.item())
        if step % config.report_interval == 0 or step == config.steps:
            weights = {name: weight.half() for name, weight in model.state_dict().items()}
            metrics = _measure(weights, shape, heldout, len(corpus.heldout.encode()))
            report = f"loss {np.mean(losses):.3f}, held-out perplexity {metrics['perplexity']:.3f}"
            typer.echo(f"step {step} of {config.steps}, {time.monotonic() - started:.0f} s: {report}")
            losses.clear()
    tokens_seen = config.steps * config.batch_size * shape.n_positions
    checkpoint = {
        "model_state_dict": weights,
        "model_config": shape.entries(),
        "train_config": asdict(config),
        "step": config.steps,
        "epoch": tokens_seen // sum(map(len, streams)),
        "tokens_seen": tokens_seen,
        "val_metrics": metrics,
    }
    torch.save(checkpoint, out / "model.pt")


def _optimizers(model: DemoGPT, config: TrainConfig) -> list[tuple[optim.Optimizer, float]]:
    """Each with its peak learning rate: Muon for the blocks' matrices, AdamW for the tables and vectors."""
    matrices = [weight for weight in model.h.parameters() if weight.dim() == 2]
    vectors = [weight for weight in model.parameters() if weight.dim() == 1]
    tables, decay, betas = [model.wte.weight, model.wpe.weight], config.weight_decay, (0.9, 0.98)
    return [
        (optim.Muon(matrices, weight_decay=decay), config.muon_learning_rate),
        (optim.AdamW(tables, weight_decay=decay, betas=betas), config.learning_rate),
        (optim.AdamW(vectors, weight_decay=0.0, betas=betas), config.learning_rate),
    ]


def _sample_windows(streams: list[Tensor], length: int, config: TrainConfig) -> Tensor:
    """`[batch, length + 1]` from random offsets; a fixed share of the rows, on average, is reference text."""
    rows = []
    for is_library in (torch.rand(config.batch_size) >= config.reference_share).tolist():
        stream = streams[is_library]
        start = int(torch.randint(len(stream) - length, ()))
        rows.append(stream[start : start + length + 1])
    return torch.stack(rows)


@torch.no_grad()
def _measure(weights: dict[str, Tensor], shape: ModelConfig, heldout: Tokens, size: int) -> dict[str, float]:
    """Held-out figures of fp16 weights computed in fp32, as the file will be read; `size` is in bytes."""
    model = DemoGPT(shape).eval()
    model.load_state_dict(weights)
    value = perplexity(lambda ids: model(torch.from_numpy(ids)[None])[0].numpy(), heldout, shape.n_positions)
    bits = math.log2(value) * (len(heldout) - 1)
    return {"loss": math.log(value), "perplexity": value, "bits_per_byte": bits / size}


def main(
    out: Path = Path("demo-model"),
    steps: int = 5000,
    seed: int = 1,
    threads: int = 1,
    ordinary: bool = False,
    force: bool = False,
) -> None:
    """Train a demo model and write its three files to the folder OUT, over others of these names with --force."""
    there = [name for name in ("heldout.txt", "tokenizer.json", "model.pt") if (out / name).exists()]
    if there and not force:
        raise typer.BadParameter(f"{out} holds {', '.join(there)} already; give another --out, or --force")
    torch.set_num_threads(threads)
    train(out, ORDINARY if ordinary else ModelConfig(), TrainConfig(steps=steps, seed=seed), read_corpus())


if __name__ == "__main__":
    typer.run(main)
