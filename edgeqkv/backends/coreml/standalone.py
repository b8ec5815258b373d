"""A package on its own, without the bundle that it came in: what it is, and whether it runs."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from edgeqkv.backends.coreml.errors import mil_errors
from edgeqkv.backends.coreml.forms import FORMS
from edgeqkv.backends.described import described
from edgeqkv.backends.target import TargetSpec
from edgeqkv.bundle.manifest import Artifact, Graph, Normalization, Role, StateTensor, TensorSpec
from edgeqkv.errors import BundleError, UnsupportedError
from edgeqkv.mil import Evaluator, Package, Precision
from edgeqkv.mil.package import FeatureSpec, Function

__all__ = ["examine", "read_artifact"]

_FACTS = {"form", "weights", "context", "chunk", "variant", "state"}
_ENCODER_FACTS = {"form", "weights", "batch", "variant"}

_ROLES: Final[dict[str, Role]] = {"pixels": "pixels", "features": "features"}

_STATE: Final = re.compile(r"(\w+) \((kv|k|v)\)")
"""A state's name and role, as the package's description lists them."""

_NUMPY = {"fp32": np.float32, "fp16": np.float16, "int32": np.int32}


@mil_errors()
def read_artifact(path: Path) -> Artifact:
    """The description of a package that edgeqkv exported, from the package itself.

    Raises:
        UnsupportedError: somebody else made it, so that nothing says how it is to be called.
        BundleError: it is damaged.
    """
    package = Package(path)
    facts = {
        key.removeprefix("edgeqkv."): value for key, value in package.metadata.items() if key.startswith("edgeqkv.")
    }
    encoder = facts.get("kind") == "encoder"
    if not set(facts) >= (_ENCODER_FACTS if encoder else _FACTS):
        raise UnsupportedError(
            f"{path} was not exported by edgeqkv, so there is nothing to compare it with: leave out --against to run "
            f"its functions and see whether their results are numbers"
        )
    try:
        return _encoder(path, package, facts) if encoder else _decoder(path, package, facts)
    except (LookupError, ValueError) as error:
        raise BundleError(
            f"{path} is damaged: what it says of itself makes no sense ({error}). Export it again"
        ) from error


def _encoder(path: Path, package: Package, facts: dict[str, str]) -> Artifact:
    function = package.function()
    ((given,), (given_back,)) = (tuple(specs.values()) for specs in (function.inputs, function.outputs))
    role: Role = "image" if given.image else "tokens" if "values" in facts else _ROLES[given.name]
    input_ = TensorSpec(name=given.name, dtype="uint8" if given.image else given.dtype, shape=given.shape, role=role)
    output = TensorSpec(name=given_back.name, dtype=given_back.dtype, shape=given_back.shape, role="logits")
    mean, std = (tuple(float(n) for n in facts[name].split(",")) if name in facts else () for name in ("mean", "std"))
    return described(
        "coreml",
        TargetSpec(form=facts["form"], weights=facts["weights"], block=_block(facts), batch=int(facts["batch"])),
        (Graph(name=function.name, file=path.name, inputs=(input_,), outputs=(output,)),),
        vocab_size=int(facts["values"]) if "values" in facts else None,
        normalization=Normalization(mean=mean, std=std) if given.image else None,
        details={"variant": facts["variant"]},
    )


def _decoder(path: Path, package: Package, facts: dict[str, str]) -> Artifact:
    interface = FORMS[facts["form"]].interface
    spec = TargetSpec(
        form=facts["form"],
        weights=facts["weights"],
        state="fp16",
        context=int(facts["context"]),
        chunk=int(facts["chunk"]),
        block=_block(facts),
    )
    function = package.function()
    vocab_size = function.outputs["logits"].shape[-1]
    return described(
        "coreml",
        spec,
        (graph.model_copy(update={"file": path.name}) for graph in interface.graphs(spec, vocab_size)),
        vocab_size=vocab_size,
        axes=("layers", "kv_heads", "context", "head_dim"),
        state=tuple(
            StateTensor(
                name=name,
                role=role,
                layer=None,
                dtype="fp16",
                shape=(shape := function.states[name].shape),
                ring=shape[2] < int(spec.context or 0),
                update="runtime",
            )
            for name, role in _STATE.findall(facts["state"])
        ),
        details={"variant": facts["variant"]},
    )


def _block(facts: dict[str, str]) -> int | None:
    return int(facts["block"]) if "block" in facts else None


@mil_errors()
def examine(path: Path) -> dict[str, Any]:
    """Run every function of any package once, on zeros, in both precisions.

    Returns:
        For every function its ``inputs``, ``outputs`` and ``states`` in words, the ``operations`` by type with how
        many there are, whether the results are ``finite``, in fp32 and with fp16's rounding, and by how much the two
        differ (``fp16_difference``).

    Raises:
        UnsupportedError: it has operations that the evaluator does not know; they are named.
        BundleError: it is damaged.
    """
    package = Package(path)
    return {name: _examined(package, function) for name, function in package.functions.items()}


def _examined(package: Package, function: Function) -> dict[str, Any]:
    exact, rounded = (_results(package, function, precision) for precision in ("fp32", "fp16"))
    pairs = [(exact[name].astype(np.float64), rounded[name].astype(np.float64)) for name in exact]
    return {
        "inputs": _in_words(function.inputs),
        "outputs": _in_words(function.outputs),
        "states": _in_words(function.states),
        "operations": dict(Counter(op.type for op in function.operations if op.type != "const").most_common()),
        "finite": all(bool(np.isfinite(values).all()) for pair in pairs for values in pair),
        "fp16_difference": max((float(np.abs(a - b).max(initial=0.0)) for a, b in pairs), default=0.0),
    }


def _results(package: Package, function: Function, precision: Precision) -> dict[str, npt.NDArray[Any]]:
    evaluator = Evaluator(package, function.name, precision)
    zeros = {
        name: np.zeros(spec.shape, np.uint8 if spec.image else _NUMPY[spec.dtype])
        for name, spec in function.inputs.items()
    }
    return evaluator.run(zeros, evaluator.new_state())


def _in_words(specs: dict[str, FeatureSpec]) -> dict[str, str]:
    return {name: str(spec) for name, spec in specs.items()}
