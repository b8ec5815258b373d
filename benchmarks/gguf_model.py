"""A Hugging Face model directory out of a llama.cpp file (GGUF), dequantized: for models of the llama family.

What llama.cpp changes on its way is undone: the names, the packed weights, and the order of the rows of the query and
key projections, which it interleaves because it rotates neighbours where Hugging Face rotates halves.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from gguf import GGUFReader, TokenType, dequantize
from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

__all__ = ["write_directory"]

_NAMES: Final = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def write_directory(file: Path, folder: Path) -> None:
    """Write ``config.json``, ``model.safetensors`` in float32, ``tokenizer.json`` and ``tokenizer_config.json``.

    Raises:
        ValueError: it is another family, or has another kind of tokenizer.
    """
    reader = GGUFReader(file)
    said = {name: field.contents() for name, field in reader.fields.items()}
    if (said["general.architecture"], said["tokenizer.ggml.pre"]) != ("llama", "smollm"):
        raise ValueError(f"{file} is a {said['general.architecture']} with a {said['tokenizer.ggml.pre']} tokenizer")
    folder.mkdir(parents=True, exist_ok=True)
    tensors = dict(_tensor(tensor, said) for tensor in reader.tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    _write(folder / "config.json", _config(said, tied="lm_head.weight" not in tensors))
    _tokenizer(said).save(str(folder / "tokenizer.json"))
    _write(folder / "tokenizer_config.json", _tokenizer_config(said))


def _tensor(tensor: Any, said: dict[str, Any]) -> tuple[str, npt.NDArray[np.float32]]:
    """A tensor's Hugging Face name, and its values."""
    *block, part, kind = tensor.name.split(".")
    values = np.array(dequantize(tensor.data, tensor.tensor_type), dtype=np.float32)
    if part in ("attn_q", "attn_k"):
        values = halves(values, said["llama.attention.head_count" + ("_kv" if part == "attn_k" else "")])
    prefix = f"model.layers.{block[1]}." if block else ""
    return f"{prefix}{_NAMES[part]}.{kind}", values


def halves(interleaved: npt.NDArray[np.float32], heads: int) -> npt.NDArray[np.float32]:
    """Rows ``[heads · dim, in]`` whose pairs lie side by side, with the firsts of a head's pairs before the seconds."""
    rows, width = interleaved.shape
    pairs = interleaved.reshape(heads, rows // heads // 2, 2, width)
    return np.ascontiguousarray(pairs.swapaxes(1, 2).reshape(rows, width))


def _config(said: dict[str, Any], *, tied: bool) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": len(said["tokenizer.ggml.tokens"]),
        "hidden_size": said["llama.embedding_length"],
        "intermediate_size": said["llama.feed_forward_length"],
        "num_hidden_layers": said["llama.block_count"],
        "num_attention_heads": said["llama.attention.head_count"],
        "num_key_value_heads": said["llama.attention.head_count_kv"],
        "max_position_embeddings": said["llama.context_length"],
        "rms_norm_eps": round(said["llama.attention.layer_norm_rms_epsilon"], 12),
        "rope_theta": said["llama.rope.freq_base"],
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": tied,
        "bos_token_id": said["tokenizer.ggml.bos_token_id"],
        "eos_token_id": said["tokenizer.ggml.eos_token_id"],
        "torch_dtype": "float32",
    }


def _tokenizer(said: dict[str, Any]) -> Tokenizer:
    """Byte-level BPE of single digits, as SmolLM has it."""
    tokens: list[str] = said["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ")) for merge in said["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE({token: index for index, token in enumerate(tokens)}, merges))
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    kinds = zip(tokens, said["tokenizer.ggml.token_type"], strict=True)
    tokenizer.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token, kind in kinds if kind == TokenType.CONTROL]
    )
    return tokenizer


def _tokenizer_config(said: dict[str, Any]) -> dict[str, Any]:
    tokens = said["tokenizer.ggml.tokens"]
    names = {"bos": "bos", "eos": "eos", "pad": "padding", "unk": "unknown"}
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",  # takes tokenizer.json as it is
        "model_max_length": said["llama.context_length"],
        "clean_up_tokenization_spaces": False,
        **{f"{name}_token": tokens[said[f"tokenizer.ggml.{long}_token_id"]] for name, long in names.items()},
        "chat_template": said["tokenizer.chat_template"],
    }


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
