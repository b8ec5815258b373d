"""What a package says about itself, to Xcode and to whoever opens it in a year."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from edgeqkv.bundle.manifest import Artifact
from edgeqkv.extras import installed_version
from edgeqkv.model.model import EncoderConfig, Model

__all__ = ["describe"]

_FEATURES: Final = {
    "input_ids": "The token ids. Prefill takes exactly one chunk of a prompt; what does not fill one goes "
    "through decode.",
    "position": "How many tokens the state holds already: the position of the first of input_ids. "
    "Position and tokens together must not exceed the context.",
    "inputIds": "The token ids: a whole prompt, or the one token that continues it.",
    "fullAttentionMask": "Added to the attention scores: 0 where the token of a row may look at that of a column, the "
    "lowest number elsewhere. Its last size is how many tokens there are, those of this call included.",
    "causalMask": "Zeros: one more than there are tokens, those of this call included. Only their number counts.",
    "logits": "The unnormalized log-probabilities of the next token.",
    "kv_cache": "Keys, which are the values too, of all layers.",
    "k_cache": "The keys of all layers.",
    "v_cache": "The values of all layers.",
    "keyCache": "The keys of all layers; also the values, where the model shares them.",
    "valueCache": "The values of all layers; a single number nobody reads, where the model shares them with the keys.",
}


def describe(spec: Any, model: Model, artifact: Artifact) -> None:
    """Fill in the descriptions of a specification, in place."""
    if artifact.causal:
        summary = f"for contexts of up to {artifact.context} tokens."
        features, facts = _FEATURES | _states(artifact), _decoder_facts(artifact)
    else:
        config = model.config
        summary = f"for {config.task}: {config.classes} classes."
        features = {
            artifact.whole_input.name: _input_of(config, artifact),
            artifact.graphs[0].logits.name: _output_of(config),
        }
        facts = _encoder_facts(model, artifact)
    kind = "decoder" if artifact.causal else "encoder"
    summary = f"A {model.variant} {kind} of {model.parameters:,} parameters in {artifact.weights}, {summary}"
    _fill_in(spec, model, summary, facts, features)


def _states(artifact: Artifact) -> dict[str, str]:
    """What the states hold, where layers differ and one does not hold all of them."""
    layers: Mapping[str, list[int]] = artifact.details["state_layers"]
    if len({*map(tuple, layers.values())}) == 1:
        return {}
    held = {"kv": "Keys, which are the values too,", "k": "The keys", "v": "The values"}
    return {
        tensor.name: f"{held[tensor.role]} of the layers {', '.join(map(str, layers[tensor.name]))}."
        for tensor in artifact.state_tensors
    }


def _fill_in(spec: Any, model: Model, summary: str, facts: Mapping[str, str], features: Mapping[str, str]) -> None:
    metadata = spec.description.metadata
    version = installed_version("edgeqkv") or ""
    metadata.author = f"{model.source.path.name}, exported by edgeqkv {version}".strip()
    metadata.license = f"That of {model.source.path.name}; the export adds no terms"
    metadata.shortDescription = summary
    metadata.versionString = version
    metadata.userDefined.update({"edgeqkv.version": version, "edgeqkv.variant": str(model.variant), **facts})
    for function in spec.description.functions or [spec.description]:
        for feature in (*function.input, *function.output, *function.state):
            feature.shortDescription = features[feature.name]


def _input_of(config: EncoderConfig, artifact: Artifact) -> str:
    match config.input.kind:
        case "tokens":
            return f"The token ids, 0 to {(artifact.vocab_size or 1) - 1}."
        case "features":
            return "The feature vectors of the members of a set, in any order."
    if artifact.normalization is None:
        return "The pixels, normalized as in training: (pixel / 255 - mean) / std of each channel."
    return "The image. It is normalized as in training by the model itself."


def _output_of(config: EncoderConfig) -> str:
    match config.input.kind:
        case "tokens":
            return "The unnormalized log-probabilities of the classes, for every token."
        case "features":
            return "A score for every member of the set; the highest is the odd one out."
    return "The unnormalized log-probabilities of the classes."


def _encoder_facts(model: Model, artifact: Artifact) -> dict[str, str]:
    facts = {
        "edgeqkv.kind": "encoder",
        "edgeqkv.task": model.config.task,
        "edgeqkv.form": artifact.form,
        "edgeqkv.weights": artifact.weights,
        "edgeqkv.batch": str(artifact.batch),
    }
    if artifact.block is not None:
        facts["edgeqkv.block"] = str(artifact.block)
    if artifact.vocab_size is not None:
        facts["edgeqkv.values"] = str(artifact.vocab_size)
    if artifact.normalization is not None:
        facts["edgeqkv.mean"], facts["edgeqkv.std"] = (
            ", ".join(map(repr, values)) for values in (artifact.normalization.mean, artifact.normalization.std)
        )
    return facts


def _decoder_facts(artifact: Artifact) -> dict[str, str]:
    """What a program that loads the package may want to know."""
    state = ", ".join(
        f"{tensor.name} ({tensor.role}) {tensor.dtype} [{'x'.join(map(str, tensor.shape))}]"
        for tensor in artifact.state_tensors
    )
    return {
        "edgeqkv.form": artifact.form,
        "edgeqkv.weights": artifact.weights,
        **({} if artifact.block is None else {"edgeqkv.block": str(artifact.block)}),
        "edgeqkv.context": str(artifact.context),
        "edgeqkv.chunk": str(artifact.chunk),
        "edgeqkv.state": state,
        "edgeqkv.state.axes": ", ".join(artifact.axes),
        "edgeqkv.state.bytes": str(artifact.state_bytes),
    }
