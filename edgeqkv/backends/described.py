"""What every target's `Artifact` repeats of the export's choices."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from edgeqkv.backends.target import TargetSpec
from edgeqkv.bundle.manifest import Artifact, Graph, StateTensor
from edgeqkv.extras import installed_version

__all__ = ["described"]


def described(
    target: str,
    spec: TargetSpec,
    graphs: Iterable[Graph],
    *,
    vocab_size: int | None,
    packages: Iterable[str] = (),
    state: tuple[StateTensor, ...] = (),
    axes: tuple[str, ...] = (),
    **more: Any,
) -> Artifact:
    """The artifact of an export.

    Args:
        target: the target's name.
        spec: its choices.
        graphs: what can be called.
        vocab_size: of the model; None where its input is no tokens.
        packages: distributions that wrote it, whose versions are recorded where they are installed.
        state: the KV state.
        axes: what the dimensions of a state tensor are.
        more: further fields of `Artifact`.
    """
    versions = {name: installed_version(name) for name in packages}
    return Artifact(
        target=target,
        form=spec.form,
        weights=spec.weights,
        block=spec.block,
        state=spec.state,
        context=spec.context,
        chunk=spec.chunk,
        batch=spec.batch,
        vocab_size=vocab_size,
        axes=axes if state else (),
        graphs=tuple(graphs),
        state_tensors=state,
        versions={name: version for name, version in versions.items() if version is not None},
        **more,
    )
