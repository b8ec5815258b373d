"""The targets, each a folder: an interpreter of the model, an export, and what runs it.

A new target is a folder with a ``TARGET`` (`edgeqkv.backends.target.Target`) and a line in the registry.
"""

from __future__ import annotations

from importlib import import_module
from typing import Final, cast

from edgeqkv.backends.target import Target, forms_of
from edgeqkv.errors import UnsupportedError

__all__ = ["REGISTRY", "TARGETS", "around_chip", "backend", "choice", "offering", "soc_of"]

REGISTRY: Final = {
    "onnx": "edgeqkv.backends.onnx",
    "executorch": "edgeqkv.backends.executorch",
    "coreml": "edgeqkv.backends.coreml",
    "hexagon": "edgeqkv.backends.hexagon",
    "ethos-u85": "edgeqkv.backends.ethos",
}
"""Name → module, whose ``TARGET`` it is."""

TARGETS: Final = tuple(REGISTRY)
"""The names that ``--target`` takes."""


def backend(name: str) -> Target:
    """The target of that name.

    Raises:
        UnsupportedError: there is none.
    """
    if name not in REGISTRY:
        raise UnsupportedError(f"unknown target '{name}'; edgeqkv exports to {', '.join(REGISTRY)}")
    return cast("Target", import_module(REGISTRY[name]).TARGET)


def choice(target: Target, what: str, asked: str | None, *, causal: bool = True) -> str:
    """What was asked for of a target's forms, weights or states (``form``, ``weights``, ``state``), or its default.

    Raises:
        UnsupportedError: the target does not offer it; the message names what it does, and which target would.
    """
    offered = _offers(target, what, causal)
    if asked is None:
        return offered[0]
    if asked in offered:
        return asked
    message = f"{target.title} cannot do {what} '{asked}'; it can do {', '.join(offered)}"
    able = offering(what, asked, causal=causal)
    raise UnsupportedError(f"{message}. For {what} '{asked}': --target {' or '.join(able)}" if able else message)


def soc_of(target: Target, asked: str | None) -> str | None:
    """The chip that was asked for, or the target's first; None for a target that compiles for none.

    Raises:
        UnsupportedError: it does not compile for that one.
    """
    if asked is None or asked in target.socs:
        return asked or next(iter(target.socs), None)
    if not target.socs:
        able = [name for name in REGISTRY if backend(name).socs]
        raise UnsupportedError(f"{target.title} compiles for no chip; --soc is for --target {' or '.join(able)}")
    raise UnsupportedError(f"{target.title} cannot compile for '{asked}'; it can for {', '.join(sorted(target.socs))}")


def around_chip(target: Target, what: str, asked: str | None) -> str | None:
    """What was asked for of the memories around a chip (``memory_mode``, ``system_config``), or the target's first.

    None for a target whose compiler does not ask.

    Raises:
        UnsupportedError: its compiler does not know it; the message says what it does.
    """
    offered: tuple[str, ...] = target.memory_modes if what == "memory_mode" else target.system_configs
    if asked is None or asked in offered:
        return asked or next(iter(offered), None)
    option = f"--{what.replace('_', '-')}"
    if not offered:
        able = [name for name in REGISTRY if backend(name).memory_modes]
        raise UnsupportedError(f"{target.title} asks for no {option}; it is for --target {' or '.join(able)}")
    raise UnsupportedError(f"{target.title} has no {option} '{asked}'; it has {', '.join(offered)}")


def offering(what: str, asked: str, *, causal: bool = True) -> list[str]:
    """The targets that offer a form, weights or a state of that name."""
    return [name for name in REGISTRY if asked in _offers(backend(name), what, causal)]


def _offers(target: Target, what: str, causal: bool) -> tuple[str, ...]:
    match what:
        case "form":
            return forms_of(target, causal=causal)
        case "weights":
            return tuple(target.schemes)
    return target.states
