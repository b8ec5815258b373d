"""What is to be known of the forms of an Ethos-U85 export beside what they are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

__all__ = ["EXPERIMENTAL"]

EXPERIMENTAL: Final[Mapping[str, str]] = {
    "int8": "experimental: what enters a product has 8 bits, which cost the demo model more than 3 % of its perplexity "
    "at a context of 512; measure it with --text"
}
"""Forms that are not to be relied on, and why."""
