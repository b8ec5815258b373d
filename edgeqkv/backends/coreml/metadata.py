"""What a package says about itself, to Xcode and to whoever opens it in a year."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from edgeqkv.backends.facts import facts, summary
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
        features = _FEATURES | _states(artifact)
    else:
        features = {
            artifact.whole_input.name: _input_of(model.config, artifact),
            artifact.graphs[0].logits.name: _output_of(model.config),
        }
    _fill_in(spec, model, artifact, features)


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


def _fill_in(spec: Any, model: Model, artifact: Artifact, features: Mapping[str, str]) -> None:
    metadata = spec.description.metadata
    version = installed_version("edgeqkv") or ""
    metadata.author = f"{model.source.path.name}, exported by edgeqkv {version}".strip()
    metadata.license = f"That of {model.source.path.name}; the export adds no terms"
    metadata.shortDescription = summary(model, artifact)
    metadata.versionString = version
    metadata.userDefined.update(facts(model, artifact))
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
