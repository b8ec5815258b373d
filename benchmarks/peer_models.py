"""A Llama of the size of the paper's 300M model, of random numbers, in the files that its runtimes read.

    python -m benchmarks.peer_models directory|llama|gguf OUT LAYERS

Layers of 1024 channels, 16 heads that share 4 KV heads, and as many weights as the merged model to within one part in a
hundred, fewer: its gated MLP has 2624 channels. Neither time nor memory depends on the values. ``directory``
is Hugging Face's, ``llama`` a folder with Meta's names, ``gguf`` llama.cpp's file in Q4_0 with its head and table, as
its own converter would write it; that is run where ``gguf`` is installed, and imports nothing of edgeqkv.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

WIDTH: Final = 1024
HEADS: Final = 16
KV_HEADS: Final = 4
INNER: Final = 2624
VOCABULARY: Final = 50304
CONTEXT: Final = 2048
EPS: Final = 1e-5
ROPE: Final = 10000.0

Array = npt.NDArray[np.float32]

_KV: Final = KV_HEADS * WIDTH // HEADS

# Hugging Face's name, llama.cpp's, Meta's, and the shape.
_TABLE: Final = ("model.embed_tokens", "token_embd", "tok_embeddings", (VOCABULARY, WIDTH))
_NORM: Final = ("model.norm", "output_norm", "norm", (WIDTH,))
_BLOCK: Final = (
    ("input_layernorm", "attn_norm", "attention_norm", (WIDTH,)),
    ("self_attn.q_proj", "attn_q", "attention.wq", (WIDTH, WIDTH)),
    ("self_attn.k_proj", "attn_k", "attention.wk", (_KV, WIDTH)),
    ("self_attn.v_proj", "attn_v", "attention.wv", (_KV, WIDTH)),
    ("self_attn.o_proj", "attn_output", "attention.wo", (WIDTH, WIDTH)),
    ("post_attention_layernorm", "ffn_norm", "ffn_norm", (WIDTH,)),
    ("mlp.gate_proj", "ffn_gate", "feed_forward.w1", (INNER, WIDTH)),
    ("mlp.up_proj", "ffn_up", "feed_forward.w3", (INNER, WIDTH)),
    ("mlp.down_proj", "ffn_down", "feed_forward.w2", (WIDTH, INNER)),
)
_PREFIXES: Final = ("model.layers.", "blk.", "layers.")


def tensors(naming: int, layers: int) -> Iterator[tuple[str, Array]]:
    """Every tensor, by the names of Hugging Face (0), llama.cpp (1) or Meta (2), without ``.weight``."""
    random = np.random.default_rng(0)

    def numbers(shape: tuple[int, ...]) -> Array:
        if len(shape) == 1:
            return np.ones(shape, np.float32)
        return random.standard_normal(shape, np.float32) * np.float32(0.02)

    for names in (_TABLE, _NORM):
        yield names[naming], numbers(names[3])
    for layer in range(layers):
        for names in _BLOCK:
            yield f"{_PREFIXES[naming]}{layer}.{names[naming]}", numbers(names[3])


def write_directory(out: Path, layers: int) -> None:
    """``config.json``, ``model.safetensors`` and a tokenizer of bytes, which the runtimes ask for and nobody uses."""
    from safetensors.numpy import save_file
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    out.mkdir(parents=True, exist_ok=True)
    save_file(
        {f"{name}.weight": value for name, value in tensors(0, layers)}, out / "model.safetensors", {"format": "pt"}
    )
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": VOCABULARY,
        "hidden_size": WIDTH,
        "intermediate_size": INNER,
        "num_hidden_layers": layers,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "max_position_embeddings": CONTEXT,
        "rms_norm_eps": EPS,
        "rope_theta": ROPE,
        "hidden_act": "silu",
        "tie_word_embeddings": True,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "torch_dtype": "float32",
    }
    (out / "config.json").write_text(json.dumps(config), encoding="utf-8")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: index for index, letter in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(out / "tokenizer.json"))
    said = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": alphabet[0], "eos_token": alphabet[1]}
    (out / "tokenizer_config.json").write_text(json.dumps(said), encoding="utf-8")


def write_llama(out: Path, layers: int) -> None:
    """``consolidated.pth`` and ``params.json``, as ExecuTorch's exporter reads them."""
    import torch

    out.mkdir(parents=True, exist_ok=True)
    weights = {f"{name}.weight": torch.from_numpy(value) for name, value in tensors(2, layers)}
    torch.save({**weights, "output.weight": weights["tok_embeddings.weight"]}, out / "consolidated.pth")
    params = {
        "dim": WIDTH,
        "n_layers": layers,
        "n_heads": HEADS,
        "n_kv_heads": KV_HEADS,
        "hidden_dim": INNER,
        "vocab_size": VOCABULARY,
        "norm_eps": EPS,
        "rope_theta": ROPE,
        "use_scaled_rope": False,
    }
    (out / "params.json").write_text(json.dumps(params), encoding="utf-8")


def write_gguf(out: Path, layers: int) -> None:
    """``model.gguf``: matrices in Q4_0; the tied table too, as the merged model has it in int4."""
    import gguf

    out.mkdir(parents=True, exist_ok=True)
    writer = gguf.GGUFWriter(out / "model.gguf", "llama")
    numbers: dict[str, Any] = {
        "add_vocab_size": VOCABULARY,
        "add_context_length": CONTEXT,
        "add_embedding_length": WIDTH,
        "add_block_count": layers,
        "add_feed_forward_length": INNER,
        "add_head_count": HEADS,
        "add_head_count_kv": KV_HEADS,
        "add_layer_norm_rms_eps": EPS,
        "add_rope_freq_base": ROPE,
        "add_rope_dimension_count": WIDTH // HEADS,
        "add_file_type": gguf.LlamaFileType.MOSTLY_Q4_0,
        "add_tokenizer_model": "no_vocab",
    }
    for method, value in numbers.items():
        getattr(writer, method)(value)
    for name, value in tensors(1, layers):
        kind = gguf.GGMLQuantizationType.Q4_0 if value.ndim == 2 else gguf.GGMLQuantizationType.F32
        writer.add_tensor(f"{name}.weight", gguf.quants.quantize(value, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    {"directory": write_directory, "llama": write_llama, "gguf": write_gguf}[sys.argv[1]](
        Path(sys.argv[2]), int(sys.argv[3])
    )
