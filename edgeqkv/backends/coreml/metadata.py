"""What a package says about itself, to Xcode and to whoever opens it in a year."""

from __future__ import annotations

from typing import Any, Final

from edgeqkv.artifact import Artifact
from edgeqkv.extras import installed_version
from edgeqkv.model import Model

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
    metadata = spec.description.metadata
    version = installed_version("edgeqkv") or ""
    metadata.author = f"{model.source.path.name}, exported by edgeqkv {version}".strip()
    metadata.license = f"That of {model.source.path.name}; the export adds no terms"
    metadata.shortDescription = (
        f"A {model.variant} decoder of {model.parameters:,} parameters in {artifact.weights}, "
        f"for contexts of up to {artifact.context} tokens."
    )
    metadata.versionString = version
    metadata.userDefined.update(_facts(model, artifact, version))
    for function in spec.description.functions or [spec.description]:
        for feature in (*function.input, *function.output, *function.state):
            feature.shortDescription = _FEATURES[feature.name]


def _facts(model: Model, artifact: Artifact, version: str) -> dict[str, str]:
    """What a program that loads the package may want to know."""
    state = ", ".join(
        f"{tensor.name} ({tensor.role}) {tensor.dtype} [{'x'.join(map(str, tensor.shape))}]"
        for tensor in artifact.state_tensors
    )
    return {
        "edgeqkv.version": version,
        "edgeqkv.variant": str(model.variant),
        "edgeqkv.form": artifact.form,
        "edgeqkv.weights": artifact.weights,
        "edgeqkv.context": str(artifact.context),
        "edgeqkv.chunk": str(artifact.chunk),
        "edgeqkv.state": state,
        "edgeqkv.state.axes": ", ".join(artifact.axes),
        "edgeqkv.state.bytes": str(artifact.state_bytes),
    }
