"""Which layers are converted: those that are named, as many as a size of the state asks for, or as a loss allows."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from edgeqkv.convert.conversion import Candidates, Conversion
from edgeqkv.convert.reach import smaller_layers
from edgeqkv.errors import InputError
from edgeqkv.model.model import Model
from edgeqkv.model.variants import Variant
from edgeqkv.units import amount

__all__ = ["STATE_BYTES", "check_budget", "most_that_hold", "parse_layers", "within_budget"]

STATE_BYTES: Final = 2
"""Bytes of a number of the state whose size is spoken of: float16, the most usual form of it."""


def parse_layers(text: str) -> tuple[int, ...]:
    """Layers by their numbers from 0, in ascending order.

    Raises:
        InputError: it is something else.

    >>> parse_layers("0-3, 8")
    (0, 1, 2, 3, 8)
    """
    found: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,5})(?:\s*[-–]\s*(\d{1,5}))?\s*", part)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if last < first:
            raise InputError(
                f"'{part.strip()[:40]}' names no layers; write them as 0-5,8 (the first layer is 0), or auto"
            )
        found.update(range(first, last + 1))
    return tuple(sorted(found))


def check_budget(model: Model, variant: Variant, budget: int) -> None:
    """Raise `InputError` if a size of the state is none that leaving layers unconverted could meet."""
    context, smaller = model.config.positions, smaller_layers(model, variant)
    numbers = sum(spec.numbers for spec in model.state(context) if spec.layer not in smaller)
    for layer in smaller:
        attention = model.network.blocks[layer].attention
        kv_heads = variant.kv_heads_of(attention.heads.query)
        numbers += variant.sharing.tensors * kv_heads * attention.heads.dim * attention.kept(context)
    before, after = model.state_bytes(context, STATE_BYTES), numbers * STATE_BYTES
    if budget < after:
        raise InputError(
            f"a state of {amount(budget)} is impossible: with all layers {variant} it takes {amount(after)} for "
            f"{context} tokens in float16. Choose a variant that stores less, or a larger --state-budget"
        )
    if budget >= before:
        raise InputError(
            f"the state of {model.source.path.name} takes {amount(before)} for {context} tokens in float16, which "
            f"is within {amount(budget)}: nothing has to be converted"
        )


def within_budget(found: Candidates, budget: int) -> Conversion:
    """The conversion of the fewest layers whose state is within the budget; those that lose most stay as they were."""
    ranked, context = found.ranked, found.model.config.positions
    for count in range(1, len(ranked) + 1):
        conversion = found.taken(ranked[:count])
        if conversion.model.state_bytes(context, STATE_BYTES) <= budget:
            break
    return conversion


def most_that_hold(found: Candidates, holds: Callable[[Conversion], bool]) -> Conversion:
    """The conversion of the most layers that holds, of those that lose least first; of one, if none does.

    It is looked for by halving, as if one more layer never did good.
    """
    ranked = found.ranked
    if holds(whole := found.taken(ranked)):
        return whole
    best, least, most = found.taken(ranked[:1]), 0, len(ranked)  # `least` layers hold, `most` do not
    while most - least > 1:
        count = (least + most) // 2
        if holds(conversion := found.taken(ranked[:count])):
            best, least = conversion, count
        else:
            most = count
    return best
