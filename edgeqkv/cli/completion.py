"""What TAB offers: values that an option can take, with what each is for where the shell shows that.

A completion is nobody's task but a service: what goes wrong on the way offers nothing, and says nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import wraps
from pathlib import Path

import typer

from edgeqkv.backends import TARGETS, backend
from edgeqkv.errors import EdgeQKVError

__all__ = ["devices", "engines", "forms", "held_targets", "recipes", "states", "targets", "variants", "weights"]

Offered = Iterable[tuple[str, str]]
"""Values, and what each is for."""

_KV_HEADS = ("gqa2", "gqa4", "gqa8", "mqa")


def _completion(offer: Callable[[typer.Context], Offered]) -> Callable[[typer.Context, str], list[tuple[str, str]]]:
    """A completion of a value, or of the last one in a list with commas."""

    @wraps(offer)
    def complete(ctx: typer.Context, incomplete: str) -> list[tuple[str, str]]:
        before, comma, last = incomplete.rpartition(",")
        try:
            found = dict(offer(ctx))
        except (EdgeQKVError, OSError, ValueError):
            return []
        return [(f"{before}{comma}{name}", told) for name, told in found.items() if name.startswith(last)]

    # Typer looks at the types to know what to give.
    complete.__annotations__ = {"ctx": typer.Context, "incomplete": str}
    del complete.__wrapped__
    return complete


@_completion
def targets(ctx: typer.Context) -> Offered:
    """The targets of edgeqkv."""
    return [(name, backend(name).title) for name in TARGETS]


@_completion
def held_targets(ctx: typer.Context) -> Offered:
    """The targets of the bundle that stands on the line, or else all."""
    held = _bundle_targets(ctx)
    return [(name, backend(name).title) for name in TARGETS if not held or name in held]


@_completion
def forms(ctx: typer.Context) -> Offered:
    """The forms of the targets that stand on the line, or else of the default one."""
    return [(form.name, form.purpose) for name in _asked(ctx) for form in backend(name).forms]


@_completion
def weights(ctx: typer.Context) -> Offered:
    """The precisions of weights of those targets."""
    return [(scheme, "") for name in _asked(ctx) for scheme in backend(name).schemes]


@_completion
def states(ctx: typer.Context) -> Offered:
    """The precisions of the state of those targets."""
    return [(state, "") for name in _asked(ctx) for state in backend(name).states]


@_completion
def engines(ctx: typer.Context) -> Offered:
    """What runs the targets of the bundle that stands on the line."""
    names = _bundle_targets(ctx) or TARGETS
    return [(engine, backend(name).title) for name in names for engine in backend(name).engines]


@_completion
def devices(ctx: typer.Context) -> Offered:
    """The names in the catalogue of devices, and in the user's own if one stands on the line."""
    from edgeqkv.budget.devices import load_catalogue

    own = ctx.params.get("own_devices") or ctx.params.get("own")
    catalogue = load_catalogue(Path(own) if own else None)
    phones = [(name, device.title) for name, device in catalogue.devices.items()]
    return [*phones, *((name, npu.title) for name, npu in catalogue.npus.items())]


@_completion
def recipes(ctx: typer.Context) -> Offered:
    """The names of the recipes."""
    from edgeqkv.budget.presets import built_in

    return [(preset.name, preset.why) for preset in built_in()]


@_completion
def variants(ctx: typer.Context) -> Offered:
    """The variants' names, shared heads included."""
    return _variants()


def _variants() -> Iterator[tuple[str, str]]:
    from edgeqkv.model.variants import Sharing

    for sharing in Sharing:
        yield str(sharing), ""
        if not sharing.ties_queries:
            yield from ((f"{sharing}+{heads}", "") for heads in _KV_HEADS)


def _asked(ctx: typer.Context) -> tuple[str, ...]:
    """The targets that were typed so far."""
    given = ctx.params.get("target") or ()
    words = [given] if isinstance(given, str) else given
    known = [name for word in words for name in word.split(",") if name in TARGETS]
    return tuple(known) or TARGETS


def _bundle_targets(ctx: typer.Context) -> tuple[str, ...]:
    from edgeqkv.bundle.bundle import Bundle

    # What stands before an option that is still without its value is not parsed yet.
    given = ctx.params.get("bundle") or next(iter(ctx.params.get("bundles") or ctx.args), None)
    try:
        return Bundle(given, check=False).targets if given else ()
    except EdgeQKVError:
        return ()
