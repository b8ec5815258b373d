"""``edgeqkv inspect``."""

from __future__ import annotations

import edgeqkv
from edgeqkv.cli import console
from edgeqkv.cli.options import Averaged, CheckpointPath, Heads, Json

__all__ = ["inspect"]


def inspect(model: CheckpointPath, heads: Heads = None, ema: Averaged = False, as_json: Json = False) -> None:
    """Say what a checkpoint is: variant, sizes, KV state per token."""
    loaded = edgeqkv.load(model, heads=heads, ema=ema)
    from edgeqkv.cli.facts import describe  # after what says which package is missing, if torch is
    from edgeqkv.cli.summaries import show_model

    facts = describe(loaded)
    if as_json:
        console.print_json(facts)
    else:
        show_model(facts)
