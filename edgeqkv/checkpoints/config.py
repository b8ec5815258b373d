"""A model's config as its training script wrote it, read so that no key of it goes unnoticed.

A key that nobody reads is how a model is exported wrongly and proven all the same, since reference and export share the
reader's assumption. So every key is read, or harmless for a reason given here, or says what is computed anyway; any
other is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from edgeqkv.errors import CheckpointError
from edgeqkv.reading import shortened, shown

__all__ = ["BLOCKS", "HARMLESS", "LARGEST", "Config"]

LARGEST: Final = 2**31 - 1
"""The largest size that is one: dimensions are 32-bit numbers in every format that models are exported to."""

HARMLESS: Final[Mapping[str, str]] = {
    "acts in training alone": """
        embd_pdrop resid_pdrop attn_pdrop embed_dropout emb_dropout resid_dropout residual_dropout attn_dropout
        attention_dropout hidden_dropout mlp_dropout dropout dropout_rate drop_path drop_path_rate drop_rate layerdrop
        label_smoothing gradient_checkpointing use_checkpoint grad_checkpointing""",
    "is where training started": """
        initializer_range initializer_std init_std init_scale initialization seed random_seed""",
    "is how the same numbers are computed": """
        use_flash_attention use_flash flash flash_attention flash_attn attn_implementation use_cache compile
        use_compile torch_compile device dtype torch_dtype""",
    "is about the tokenizer": """
        bos_token_id eos_token_id pad_token_id unk_token_id sep_token_id tokenizer tokenizer_name tokenizer_path""",
    "is a name": """
        name model_name run_name experiment _name_or_path description variant""",
}
"""Keys that cannot change what a trained model computes, by the reason."""

_SAYINGS: Final[tuple[tuple[str, tuple[object, ...]], ...]] = (
    (
        """activation_function activation hidden_act hidden_activation act act_fn act_layer mlp_activation
        nonlinearity""",
        ("gelu", "gelu_erf", "gelu_exact", "nn.gelu"),
    ),
    ("norm norm_type norm_layer normalization", ("layernorm", "layer_norm", "nn.layernorm")),
    ("pre_norm prenorm pre_ln norm_first pre_layernorm do_layer_norm_before scale_attn_weights", (True,)),
    ("norm_position norm_placement", ("pre",)),
    (
        """position_embedding_type position_embedding position_encoding positional_encoding pos_emb_type pos_embed
        pos_encoding""",
        ("learned", "absolute", "learned_absolute"),
    ),
    (
        """use_rope rope rotary use_rotary rotary_dim use_alibi alibi sliding_window use_sliding_window window_size
        attention_window final_logit_softcapping attn_logit_softcapping logit_softcap softcap attention_sinks qk_norm
        use_qk_norm qk_layernorm post_norm postnorm sandwich_norm parallel_residual use_parallel_residual parallel_block
        gated_mlp use_swiglu scale_embeddings scale_attn_by_inverse_layer_idx layer_scale layerscale
        layer_scale_init_value num_experts n_experts add_cross_attention weight_norm""",
        (False,),
    ),
    ("embedding_multiplier residual_multiplier logits_scaling logit_scale embedding_scale", (1,)),
)

BLOCKS: Final[Mapping[str, tuple[object, ...]]] = {key: values for keys, values in _SAYINGS for key in keys.split()}
"""Keys that say what a block is, with the values that say what every architecture of the paper computes: layer norms
before attention and MLP, learned positions, the exact GELU, and nothing else."""


class Config:
    """A checkpoint's config. A key whose value is None was not said."""

    def __init__(self, path: Path, name: str, values: Mapping[Any, Any]) -> None:
        """``name`` is what it is called in the checkpoint ``path``, for messages."""
        self.place = f"the {name} of {path}"
        self._values = {key if isinstance(key, str) else shown(key): value for key, value in values.items()}
        self._read: set[str] = set()

    def get(self, key: str) -> Any:
        """The value, whatever it is; None if nothing was said."""
        self._read.add(key)
        return self._values.get(key)

    def size(self, key: str, default: int | None = None) -> int:
        """A whole number from 1.

        Raises:
            CheckpointError: it is something else, or missing without a default.
        """
        value = self.get(key)
        if value is None and default is not None:
            return default
        if value is None:
            raise CheckpointError(f"'{key}' is missing from {self.place}")
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= LARGEST:
            raise CheckpointError(f"'{key}' in {self.place} is {shown(value)}, not a size")
        return value

    def flag(self, key: str, default: bool) -> bool:
        """True or false.

        Raises:
            CheckpointError: it is something else.
        """
        value = self.get(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise CheckpointError(f"'{key}' in {self.place} is {shown(value)}; it must be true or false")
        return value

    def fraction(self, key: str, default: float) -> float:
        """A number between 0 and 1, which it is not itself.

        Raises:
            CheckpointError: it is something else.
        """
        value = self.get(key)
        if value is None:
            return default
        if not isinstance(value, float) or not 0 < value < 1:
            raise CheckpointError(f"{key} in {self.place} is {shown(value)}; it must be between 0 and 1")
        return value

    def check_known(self, computed: Mapping[str, tuple[object, ...]]) -> None:
        """Refuse what may change the function: to be called when all that is to be read has been.

        Args:
            computed: further keys that are not read, each with the values that say what is computed anyway. Words are
                compared without regard to case.

        Raises:
            CheckpointError: a key that was not read is unknown, or says something else.
        """
        harmless = " ".join(HARMLESS.values()).split()
        for key, value in self._values.items():
            if value is None or key in self._read or key in harmless:
                continue
            if key not in computed:
                raise CheckpointError(
                    f"'{shortened(key)}' in {self.place} is {shown(value)}, which edgeqkv does not know; "
                    f"if it changes nothing of what the trained model computes, save the checkpoint without it"
                )
            said = value.lower() if isinstance(value, str) else value
            if not any(type(said) in _alike(right) and said == right for right in computed[key]):
                right = " or ".join(dict.fromkeys(shown(each) for each in computed[key]))
                raise CheckpointError(
                    f"'{shortened(key)}' in {self.place} is {shown(value)}, which edgeqkv does not compute for "
                    f"this architecture; it computes {right}"
                )


def _alike(value: object) -> tuple[type, ...]:
    """Types of which a value may be that is to equal this one, so that what is compared are words or numbers."""
    return (str,) if isinstance(value, str) else (bool, int, float)
