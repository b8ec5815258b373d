"""The files that onnxruntime-genai reads beside a graph: ``genai_config.json`` and ``tokenizer_config.json``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from edgeqkv.backends.onnx.genai_tokenizer import rewritten, tokenizer_config
from edgeqkv.backends.target import TargetSpec
from edgeqkv.bundle.files import TOKENIZER, TOKENIZER_CONFIG
from edgeqkv.errors import UnsupportedError
from edgeqkv.model.model import Model

__all__ = ["CONFIG", "check_ends", "write_files"]

CONFIG: Final = "genai_config.json"


def check_ends(spec: TargetSpec) -> None:
    """Raise `UnsupportedError` if no token is known that ends a text.

    The runtime insists on one that is in the vocabulary. Told of none, it takes the one to fill up batches with; told
    of neither, token 0: an ordinary one, as any that is made up here might be.
    """
    if not spec.eos_token_ids:
        raise UnsupportedError(
            "onnxruntime-genai ends a text at a token, and none is known; name it with --eos ID, or give the model's "
            "tokenizer (--tokenizer). For a model without one, name an id that it never says"
        )


def write_files(directory: Path, model: Model, spec: TargetSpec, graph: str, layers: int) -> None:
    """Write what tells the runtime of a graph file, whose state poses as that of so many ``layers``.

    With a tokenizer, its configuration is written too; the tokenizer itself the bundle puts beside it, unless it has to
    be put in other words for the runtime.

    Raises:
        UnsupportedError: the runtime does not read the tokenizer as it is meant.
    """
    if spec.tokenizer is not None:
        _write(directory / TOKENIZER_CONFIG, tokenizer_config(spec.tokenizer))
        if (content := rewritten(spec.tokenizer)) is not None:
            _write(directory / TOKENIZER, content)
    _write(directory / CONFIG, _config(model, spec, graph, layers))


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _config(model: Model, spec: TargetSpec, graph: str, layers: int) -> dict[str, Any]:
    """https://onnxruntime.ai/docs/genai/reference/config.html"""
    config = model.config
    ends = list(spec.eos_token_ids)
    # The arena never shrinks, and phones' allocators need none; packing copies what can be used where it is mapped.
    options: dict[str, Any] = {"enable_cpu_mem_arena": False, "log_severity_level": 3, "provider_options": []}
    if spec.weights in ("fp32", "fp16"):
        options["session.disable_prepacking"] = "1"
    return {
        "model": {
            "type": "decoder",
            "context_length": spec.context,
            "vocab_size": config.vocab_size,
            **({} if spec.bos_id is None else {"bos_token_id": spec.bos_id}),
            "eos_token_id": ends,
            "pad_token_id": ends[0],  # it would end a text as well
            "decoder": {
                "filename": graph,
                "session_options": options,
                "hidden_size": config.hidden_size,
                "head_size": config.head_dim,
                "num_attention_heads": config.heads,
                "num_key_value_heads": config.kv_heads,
                "num_hidden_layers": layers,
                "inputs": {
                    "input_ids": "input_ids",
                    "attention_mask": "attention_mask",
                    "position_ids": "position_ids",
                    "past_key_names": "past_key_values.%d.key",
                    "past_value_names": "past_key_values.%d.value",
                },
                "outputs": {
                    "logits": "logits",
                    "present_key_names": "present.%d.key",
                    "present_value_names": "present.%d.value",
                },
            },
        },
        "search": {
            "max_length": spec.context,
            "do_sample": False,
            "num_beams": 1,
            "past_present_share_buffer": True,
            "chunk_size": spec.chunk,
        },
    }
