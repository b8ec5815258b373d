"""What a model file says about itself, to whoever opens it in Netron or Xcode, or loads it in a year.

The same facts under the same names in every format: ``metadata_props`` of an ONNX graph, user-defined metadata of a
Core ML package, and constant methods of an ExecuTorch program (there with ``_`` for the dots).
"""

from __future__ import annotations

from edgeqkv.bundle.manifest import Artifact
from edgeqkv.extras import installed_version
from edgeqkv.model.model import Model

__all__ = ["facts", "summary"]


def summary(model: Model, artifact: Artifact) -> str:
    """One sentence."""
    if artifact.causal:
        kind, what = "decoder", f"for contexts of up to {artifact.context} tokens."
    else:
        kind, what = "encoder", f"for {model.config.task}: {model.config.classes} classes."
    return f"A {model.variant} {kind} of {model.parameters:,} parameters in {artifact.weights}, {what}"


def facts(model: Model, artifact: Artifact) -> dict[str, str]:
    """Names and values. Of an artifact its graphs are not read, nor its details."""
    return {
        "edgeqkv.version": installed_version("edgeqkv") or "",
        "edgeqkv.variant": str(model.variant),
        **(_decoder(artifact) if artifact.causal else _encoder(model, artifact)),
    }


def _decoder(artifact: Artifact) -> dict[str, str]:
    state = ", ".join(
        f"{tensor.name} ({tensor.role}) {tensor.dtype} [{'x'.join(map(str, tensor.shape))}]"
        for tensor in artifact.state_tensors
    )
    return {
        "edgeqkv.form": artifact.form,
        "edgeqkv.weights": artifact.weights,
        **_block(artifact),
        "edgeqkv.context": str(artifact.context),
        "edgeqkv.chunk": str(artifact.chunk),
        "edgeqkv.state": state,
        "edgeqkv.state.axes": ", ".join(artifact.axes),
        "edgeqkv.state.bytes": str(artifact.state_bytes),
    }


def _encoder(model: Model, artifact: Artifact) -> dict[str, str]:
    facts = {
        "edgeqkv.kind": "encoder",
        "edgeqkv.task": model.config.task,
        "edgeqkv.form": artifact.form,
        "edgeqkv.weights": artifact.weights,
        **_block(artifact),
        "edgeqkv.batch": str(artifact.batch),
    }
    if artifact.vocab_size is not None:
        facts["edgeqkv.values"] = str(artifact.vocab_size)
    if artifact.normalization is not None:
        facts["edgeqkv.mean"], facts["edgeqkv.std"] = (
            ", ".join(map(repr, values)) for values in (artifact.normalization.mean, artifact.normalization.std)
        )
    return facts


def _block(artifact: Artifact) -> dict[str, str]:
    """How many columns share a scale, where it was chosen."""
    return {} if artifact.block is None else {"edgeqkv.block": str(artifact.block)}
