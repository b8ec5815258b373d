"""Reading a model directory's config as its original class does, and refusing what is not understood, by name.

`transformers` reads it, because the meaning of a config is what its class makes of it: defaults that depend on other
values, old spellings of rotary positions, which layers have a window.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from edgeqkv.checkpoints.huggingface.families import FAMILIES
from edgeqkv.checkpoints.huggingface.family import Config, Family
from edgeqkv.checkpoints.huggingface.quiet import quiet
from edgeqkv.errors import CheckpointError

__all__ = ["family_of", "read_config"]

_READ: Final = frozenset(
    {
        "architectures",
        "attention_bias",
        "head_dim",
        "hidden_act",
        "hidden_size",
        "intermediate_size",
        "layer_types",
        "max_position_embeddings",
        "mlp_bias",
        "model_type",
        "num_attention_heads",
        "num_hidden_layers",
        "num_key_value_heads",
        "rms_norm_eps",
        "rope_parameters",
        "sliding_window",
        "tie_word_embeddings",
        "vocab_size",
    }
)
"""What `edgeqkv.checkpoints.huggingface.reader` reads, or this."""

_HARMLESS: Final = frozenset(
    {
        "_attn_implementation",
        "_attn_implementation_autoset",
        "_name_or_path",
        "attention_dropout",
        "attn_implementation",
        "auto_map",
        "bos_token_id",
        "chunk_size_feed_forward",
        "dtype",
        "eos_token_id",
        "id2label",
        "initializer_range",
        "label2id",
        "output_attentions",
        "output_hidden_states",
        "pad_token_id",
        "problem_type",
        "return_dict",
        "task_specific_params",
        "torch_dtype",
        "transformers.js_config",
        "transformers_version",
        "unsloth_fixed",
        "unsloth_version",
        "use_cache",
    }
)
"""What changes no logit of a model that only runs."""

_TOWERS: Final = {"vision_config": "a vision tower", "audio_config": "an audio tower", "encoder": "an encoder"}
_EXPERTS: Final = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
_NOT_ATTENTION: Final = ("conv", "linear_attention", "mamba", "recurrent")


def family_of(raw: Mapping[str, Any], path: Path) -> Family:
    """The family of a ``config.json``.

    Raises:
        CheckpointError: it is none that edgeqkv knows; the message says what of it could be exported.
    """
    kind = raw.get("model_type")
    if isinstance(kind, str) and kind in FAMILIES:
        return FAMILIES[kind]
    known = ", ".join(FAMILIES)
    if not isinstance(kind, str):
        raise CheckpointError(f"{path} does not say which model it is (model_type is {kind!r}); edgeqkv reads {known}")
    raise CheckpointError(f"{path} is of the model_type '{kind}'{_why_not(raw)}; edgeqkv reads {known}")


def read_config(raw: Mapping[str, Any], family: Family, directory: Path) -> Config:
    """The config of a model directory, every value of which is known.

    Raises:
        CheckpointError: transformers refuses it, or it asks for what edgeqkv does not know.
        MissingExtra: transformers is not installed.
    """
    path = directory / "config.json"
    if how := raw.get("quantization_config"):
        method = how.get("quant_method", "unknown") if isinstance(how, Mapping) else how
        raise CheckpointError(
            f"{path} is of a model that was quantized ({method}); give the original in bf16, fp16 or fp32, "
            f"and edgeqkv quantizes it"
        )
    with quiet("reading a Hugging Face model"):
        from transformers import AutoConfig

        try:
            config = AutoConfig.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
        except Exception as error:  # of its validation, which shares no base class but this one
            reason = " ".join(str(error).split())
            raise CheckpointError(f"{path} is refused by transformers: {reason}") from error
        default = type(config)().to_dict()
    architectures = config.architectures or [family.model_class]
    if family.model_class not in architectures:
        raise CheckpointError(
            f"{path} is of a {', '.join(map(str, architectures))}, which continues no text; edgeqkv reads "
            f"{family.title} as {family.model_class}"
        )
    for key, what in family.unsupported.items():
        if value := getattr(config, key, None):
            raise CheckpointError(f"{path} sets '{key}' to {value!r}: edgeqkv does not export {what} yet")
    if refused := family.refused(config):
        raise CheckpointError(f"{path} is of a {family.title} model: {refused}")
    known = _READ | _HARMLESS | family.keys | family.harmless | family.unsupported.keys()
    for key, value in config.to_dict().items():
        # What the class has no field for, it does not read: without a value it asks for nothing.
        if key not in known and (value != default[key] if key in default else value):
            raise CheckpointError(
                f"{path} sets '{key}' to {value!r}, and edgeqkv does not know what that changes in a {family.title} "
                f"model; take it out if it changes nothing"
            )
    return config


def _why_not(raw: Mapping[str, Any]) -> str:
    """What a model of no known family is, as far as its config tells."""
    text = raw.get("text_config")
    if found := [name for key, name in _TOWERS.items() if raw.get(key)]:
        inner = text.get("model_type") if isinstance(text, Mapping) else None
        could = f" (its language model, a '{inner}', can be exported if it is saved alone)" if inner in FAMILIES else ""
        return f", which has {' and '.join(found)}{could}"
    if any(raw.get(key) for key in _EXPERTS):
        return ", which is a mixture of experts"
    types = raw.get("layer_types")
    foreign = {str(kind) for kind in types if str(kind).startswith(_NOT_ATTENTION)} if isinstance(types, list) else ()
    return f", which has layers that are not attention ({', '.join(sorted(foreign))})" if foreign else ""
