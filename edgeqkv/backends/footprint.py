"""What a process takes, as a sum of terms: each with its bytes, its formula and where it comes from.

A term is present in some of the phases of a process's life (load, prefill of a full context, decode). The largest
sum is what the process takes; the phase it is reached in has a name.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final, Literal

__all__ = ["ALL", "MIB", "PHASES", "RUNNING", "Footprint", "Memory", "Phase", "Term", "count"]

Phase = Literal["load", "prefill", "decode"]
PHASES: Final[tuple[Phase, ...]] = ("load", "prefill", "decode")
ALL: Final = PHASES
RUNNING: Final[tuple[Phase, ...]] = ("prefill", "decode")

Memory = Literal["anonymous", "mapped", "mapped again"]
"""``anonymous``: allocated. ``mapped``: a file's pages, which a system short of memory can drop and read again.
``mapped again``: pages that are mapped already; they take no more memory, but Linux counts them twice (RSS)."""

MIB: Final = 1 << 20


@dataclass(frozen=True)
class Term:
    """One part of a footprint.

    Attributes:
        name: the kind of thing: weights, state, activations, logits, runtime, tokenizer.
        bytes: how much.
        memory: of which kind.
        phases: when it is there.
        formula: how the number is made, with the numbers that went into it.
        origin: where they come from.
        assumed: whether the number is an assumption (status unknown).
        streamed: whether all of it is read for every token that is decoded.
    """

    name: str
    bytes: int
    memory: Memory
    phases: tuple[Phase, ...]
    formula: str
    origin: str
    assumed: bool = False
    streamed: bool = False


@dataclass(frozen=True)
class Footprint:
    """The terms of a process."""

    terms: tuple[Term, ...]

    def total(self, phase: Phase, *memory: Memory) -> int:
        """Bytes in a phase; of the named kinds of memory, or of all that is physically there."""
        kinds = memory or ("anonymous", "mapped")
        return sum(term.bytes for term in self.terms if phase in term.phases and term.memory in kinds)

    def resident(self, phase: Phase) -> int:
        """What Linux would show as the process's resident size (RSS) in a phase, in bytes."""
        return self.total(phase, "anonymous", "mapped", "mapped again")

    @property
    def peak_phase(self) -> Phase:
        return max(PHASES, key=self.total)

    @property
    def peak(self) -> int:
        """The most memory that the process takes, in bytes."""
        return self.total(self.peak_phase)

    @property
    def streamed(self) -> int:
        """Bytes that decoding one token at full context reads."""
        return sum(term.bytes for term in self.terms if term.streamed)

    @property
    def assumes(self) -> bool:
        """Whether a term is an assumption."""
        return any(term.assumed for term in self.terms)

    def parts(self) -> dict[str, int]:
        """Name → bytes at the peak, for what is physically there."""
        parts: dict[str, int] = {}
        for term in self.terms:
            if self.peak_phase in term.phases and term.memory != "mapped again":
                parts[term.name] = parts.get(term.name, 0) + term.bytes
        return parts

    def with_terms(self, terms: Iterable[Term]) -> Footprint:
        """The same with the terms of the given names replaced."""
        new = tuple(terms)
        names = {term.name for term in new}
        return replace(self, terms=(*(term for term in self.terms if term.name not in names), *new))


def count(number: int) -> str:
    """A number with its thousands apart, for formulas.

    >>> count(50304)
    '50,304'
    """
    return f"{number:,}"
