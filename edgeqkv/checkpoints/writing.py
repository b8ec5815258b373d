"""From a `Model` to a file in the language models' format, which every command and the authors' own classes read.

The file is a torch zip, or safetensors with its config beside it, by its name. A model that no class of the authors'
computes, because its layers share differently or its MLPs have another activation, says so under a key of our own
(`edgeqkv.checkpoints.architectures.language_model`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from edgeqkv.checkpoints.architectures.language_model import ACTIVATIONS, EXTENSION
from edgeqkv.checkpoints.saving import Parts, save_safetensors, save_torch
from edgeqkv.disk.files import written_beside
from edgeqkv.disk.workplace import Busy
from edgeqkv.errors import CheckpointError, InputError, UnsupportedError
from edgeqkv.model import walk
from edgeqkv.model.architectures.decoder import Decoder
from edgeqkv.model.layers import Attention, Block, Linear, Norm
from edgeqkv.model.model import Model
from edgeqkv.model.variants import Sharing
from edgeqkv.model.weights import Weight

__all__ = ["check_place", "check_writable", "write"]

_SAFETENSORS: Final = ".safetensors"
_FACTS: Final = ("step", "epoch", "tokens_seen")


def write(model: Model, path: Path, *, made: Mapping[str, Any] | None = None, overwrite: bool = False) -> None:
    """Write a decoder as a checkpoint, which appears whole or not at all.

    Args:
        model: a decoder of the authors' architecture, in any variants; its weights are written as they are.
        path: the file, ``.pt`` or ``.safetensors``.
        made: how it was made, plain values, for the record (``train_config``).
        overwrite: whether to replace a file.

    Raises:
        InputError: there is a file already, or another process writes it.
        UnsupportedError: the format cannot hold such a model.
        CheckpointError: the disk refuses.
    """
    check_place(path, overwrite=overwrite)
    parts, config = _parts(model), _config(model)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == _SAFETENSORS:
            with written_beside(path) as file, written_beside(_config_beside(path)) as beside:
                save_safetensors(parts, file)
                beside.write_text(json.dumps({"model_config": config, "train_config": made or {}}, indent=2) + "\n")
            return
        facts = {name: model.source.training.get(name, 0) for name in _FACTS}
        others = {**facts, "model_config": config, "train_config": made or {}}
        with written_beside(path) as file:
            save_torch(parts, file, key="model_state_dict", others=others)
    except Busy as error:
        raise InputError(f"cannot write {path}: {error}") from error
    except OSError as error:
        raise CheckpointError(f"cannot write {path}: {error.strerror or error}. Nothing was left behind") from error


def check_place(path: Path, *, overwrite: bool) -> None:
    """Raise `InputError` if a file is in the way."""
    files = [path, _config_beside(path)] if path.suffix == _SAFETENSORS else [path]
    for file in files:
        if file.is_dir():
            raise InputError(f"{file} is a folder; give the file to write, such as {file / 'model.pt'}")
        if file.exists() and not overwrite:
            raise InputError(f"{file} exists already; give another --out, or --force to replace it")


def check_writable(model: Model) -> None:
    """Raise `UnsupportedError` if the format cannot hold such a model; whatever shares its projections may change."""
    if fault := next(_faults(model), None):
        raise UnsupportedError(
            f"{model.source.path.name} {fault}, and the format of the paper's checkpoints, which is the one that is "
            f"written, has no place for that"
        )


def _faults(model: Model) -> Iterator[str]:
    """What the format cannot say."""
    network = model.network
    if not isinstance(network, Decoder):
        yield "is no decoder"
        return
    if network.position_table is None:
        yield "has no learned positions"
    if network.embedding_scale != 1.0 or network.logit_softcap is not None:
        yield "scales its embedding or caps its logits"
    if any(type(weight) is not Weight for weight in model.weights):
        yield "is quantized"
    if any(_is_other(norm, model.config.norm_eps) for norm in walk.norms(network)):
        yield "has normalizations other than layer norms of one epsilon with scale and bias"
    if (
        len(
            {(block.attention.heads.query, block.attention.heads.dim, block.mlp.activation) for block in network.blocks}
        )
        > 1
    ):
        yield "has layers that differ in query heads or activation"
    for block in network.blocks:
        yield from _faults_of_block(block, model.config.hidden_size)


def _is_other(norm: Norm, eps: float) -> bool:
    return norm.kind != "layer" or norm.scale is None or norm.bias is None or norm.eps != eps or bool(norm.offset)


def _faults_of_block(block: Block, width: int) -> Iterator[str]:
    attention, mlp = block.attention, block.mlp
    if mlp.gate is not None:
        yield "has MLPs with a gate"
    if block.attention_post_norm is not None or block.mlp_post_norm is not None:
        yield "has normalizations after its parts"
    if attention.source is not None or attention.rows is not None or attention.joint_norms is not None:
        yield "has layers that are no plain attention"
    if attention.rope is not None or attention.q_norm is not None or attention.k_norm is not None:
        yield "rotates or normalizes its queries and keys"
    if attention.window is not None or attention.softcap is not None or attention.term is not None:
        yield "has a window, a cap or a position term in its attention"
    if attention.heads.query * attention.heads.dim != width or attention.scale != attention.heads.dim**-0.5:
        yield "has heads of another size or scale than its width gives"


def _config(model: Model) -> dict[str, Any]:
    config = model.config
    linears = walk.linears(model.network)
    entries: dict[str, Any] = {
        "vocab_size": config.vocab_size,
        "n_positions": config.positions,
        "n_layer": config.layers,
        "n_embd": config.hidden_size,
        "n_head": config.heads,
        "n_inner": config.intermediate_size,
        "layer_norm_epsilon": config.norm_eps,
        "tie_word_embeddings": config.tied_head,
    }
    if len({linear.bias is None for linear in linears}) == 1:  # else every tensor says for itself
        entries["use_bias"] = linears[0].bias is not None
    variants = [block.attention.variant for block in model.network.blocks]
    if len(set(variants)) == 1 and config.kv_heads != config.heads:
        entries["n_kv_groups"] = config.kv_heads
    own: dict[str, Any] = {}
    if len(set(variants)) > 1:
        own["layers"] = [str(variant) for variant in variants]
    if (activation := model.network.blocks[0].mlp.activation) != ACTIVATIONS[0]:
        own["activation"] = activation
    return {**entries, EXTENSION: own} if own else entries


def _parts(model: Model) -> Parts:
    """The weights by the names of the authors' class for a layer's variant.

    Raises:
        UnsupportedError: the format cannot hold such a model.
    """
    check_writable(model)
    network = model.network
    parts: dict[str, list[Weight]] = {"wte.weight": [network.token_table], "wpe.weight": [network.position_table]}

    def put(name: str, linears: Sequence[Linear]) -> None:
        parts[f"{name}.weight"] = [linear.weight for linear in linears]
        if biases := [linear.bias for linear in linears if linear.bias is not None]:
            parts[f"{name}.bias"] = biases

    def put_norm(name: str, norm: Norm) -> None:
        assert norm.scale is not None, "check_writable looked"
        assert norm.bias is not None
        parts[f"{name}.weight"], parts[f"{name}.bias"] = [norm.scale], [norm.bias]

    for layer, block in enumerate(network.blocks):
        put_norm(f"h.{layer}.ln_1", block.attention_norm)
        for name, linears in _projections(block.attention):
            put(f"h.{layer}.attn.{name}", linears)
        put(f"h.{layer}.attn.c_proj", [block.attention.out])
        put_norm(f"h.{layer}.ln_2", block.mlp_norm)
        put(f"h.{layer}.mlp.c_fc", [block.mlp.up])
        put(f"h.{layer}.mlp.c_proj", [block.mlp.down])
    put_norm("ln_f", network.final_norm)
    if network.head is not network.token_table:
        parts["lm_head.weight"] = [network.head]
    return parts


def _projections(attention: Attention) -> list[tuple[str, list[Linear]]]:
    """What the class of a layer's variant calls its projections, and which of them it fuses."""
    q, k, v, heads = attention.q, attention.k, attention.v, attention.heads
    match attention.variant.sharing:
        case Sharing.QKV if heads.kv == heads.query:
            return [("c_attn", [q, k, v])]
        case Sharing.QKV:
            return [("c_q", [q]), ("c_kv", [k, v])]
        case Sharing.Q_IS_K:
            return [("c_kv", [k, v])]
        case Sharing.ALL:
            return [("c_k", [k])]
        case _:
            return [("c_q", [q]), ("c_kv" if heads.kv == 1 < heads.query else "c_k", [k])]


def _config_beside(path: Path) -> Path:
    return path.with_name("config.json")
