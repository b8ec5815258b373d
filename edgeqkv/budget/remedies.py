"""What would make an export fit that does not, or more comfortably: every choice that saves something, computed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from edgeqkv.backends import backend
from edgeqkv.backends.footprint import Footprint
from edgeqkv.budget.plan import Plan, footprint, npu_footprint, working_terms
from edgeqkv.budget.verdicts import ROOM, Verdict, verdict_of
from edgeqkv.model.dtypes import Dtype

__all__ = ["Remedy", "footprint_as", "largest_context", "remedies"]

_CHUNKS: Final = (64, 32, 16)
_WORTH: Final = 0.02  # of the peak: less is no remedy
_MOST: Final = 5
_MULTIPLE: Final = 8  # of contexts: a rounder number says that it was worked out, and not that it is exact


@dataclass(frozen=True)
class Remedy:
    """A change of the export, as options of ``edgeqkv export``, and what it makes of the peak (bytes)."""

    options: str
    saves: int
    peak: int
    verdict: Verdict


def footprint_as(current: Footprint, plan: Plan, *, exported: bool, npu: bool, **changes: Any) -> Footprint:
    """The footprint with something else asked of the target.

    Of an export, the weights stay as they were read, unless they or the form are what changes; all else is planned.
    """
    changed = plan.changed(**changes)
    if changed.chunk > changed.context:
        changed = changed.changed(chunk=changed.context)
    if npu:
        return npu_footprint(changed)
    if exported and changes.keys() <= {"context", "chunk", "state"}:
        return current.with_terms(working_terms(changed))
    return footprint(changed)


def largest_context(peak_at: Callable[[int], int], limit: float, positions: int) -> int:
    """The most tokens, up to the model's positions, with which the peak stays within a limit (0: none)."""
    low, high = 0, positions
    while low < high:  # a footprint grows with the context
        middle = (low + high + 1) // 2
        if peak_at(middle) <= limit:
            low = middle
        else:
            high = middle - 1
    return low


def remedies(
    current: Footprint, plan: Plan, limit: int | None, *, exported: bool = False, npu: bool = False
) -> tuple[Remedy, ...]:
    """What helps where a limit is known and there is too little room; what makes it fit first.

    One change at a time; several together only where none is enough. Changes that do not suffice are there only where
    nothing does.
    """
    if verdict_of(current.peak, limit) not in (Verdict.TIGHT, Verdict.NOT) or limit is None:
        return ()
    work = _Work(current, plan, limit, exported, npu)
    found = [work.remedy(**changes) for changes in work.single()]
    found = [each for each in found if each.saves >= _WORTH * current.peak]
    found.sort(key=lambda each: (list(Verdict).index(each.verdict), -each.saves))
    if not any(each.verdict == Verdict.FITS for each in found) and (together := work.together()) is not None:
        found.insert(0, together)
    enough = [each for each in found if each.verdict != Verdict.NOT]
    return tuple(enough or found)[:_MOST]


class _Work:
    def __init__(self, current: Footprint, plan: Plan, limit: int, exported: bool, npu: bool) -> None:
        self.current, self.plan, self.limit = current, plan, limit
        self._how = {"exported": exported, "npu": npu}

    def peak(self, **changes: Any) -> int:
        return footprint_as(self.current, self.plan, **self._how, **changes).peak

    def remedy(self, **changes: Any) -> Remedy:
        peak = self.peak(**changes)
        options = " ".join(f"--{name} {value}" for name, value in changes.items())
        return Remedy(options, self.current.peak - peak, peak, verdict_of(peak, self.limit))

    def single(self) -> Iterator[dict[str, Any]]:
        """One change each: the one of its kind that is enough and changes least, else the one that saves most."""
        yield from self._best({"state": state} for state in self._states())
        yield from self._best({"chunk": chunk} for chunk in self._chunks())
        yield from self._context()
        yield from self._best({"weights": weights} for weights in self._weights())
        yield from self._best({"form": form} for form in self._forms())

    def together(self) -> Remedy | None:
        """The changes that cost no context, all of them, and then as much context as there is room for."""
        changes: dict[str, Any] = {}
        for name, choices in (("state", self._states()), ("chunk", self._chunks()), ("weights", self._weights())):
            tried = [(self.peak(**changes, **{name: choice}), choice) for choice in choices]
            if tried:
                changes[name] = min(tried, key=lambda each: each[0])[1]
        changes |= next(self._context(**changes), {})
        found = self.remedy(**changes) if changes else None
        return found if found and found.verdict == Verdict.FITS else None

    def _best(self, choices: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """The first choice that is enough; they are in the order in which they should be tried."""
        tried = [(self.peak(**choice), choice) for choice in choices]
        enough = (choice for peak, choice in tried if verdict_of(peak, self.limit) == Verdict.FITS)
        if tried:
            yield next(enough, min(tried, key=lambda each: each[0])[1])

    def _context(self, **changes: Any) -> Iterator[dict[str, Any]]:
        """The longest context that fits, if there is one and it is shorter than the plan's."""

        def peak_at(context: int) -> int:
            return self.peak(**changes, context=context)

        if changes and peak_at(self.plan.context) <= ROOM * self.limit:
            return
        longest = largest_context(peak_at, ROOM * self.limit, self.plan.context)
        if _MULTIPLE <= longest < self.plan.context:
            yield {"context": longest - longest % _MULTIPLE}

    def _states(self) -> list[str]:
        known = {dtype.value: dtype.bytes for dtype in Dtype}
        own = known.get(self.plan.state, 0)
        smaller = [state for state in backend(self.plan.target).states if known.get(state, own) < own]
        return sorted(smaller, key=lambda state: -known[state])

    def _chunks(self) -> list[int]:
        return [chunk for chunk in _CHUNKS if chunk < min(self.plan.chunk, self.plan.context)]

    def _weights(self) -> list[str]:
        """Those that take less in a file; what they cost of quality, only an evaluation tells."""
        target, network = backend(self.plan.target), self.plan.shape.network

        def stored(weights: str) -> int:
            return self.plan.memory.stored_bytes(network, self.plan.changed(weights=weights).spec)

        own = stored(self.plan.weights)
        return sorted((weights for weights in target.schemes if stored(weights) < own), key=stored, reverse=True)

    def _forms(self) -> list[str]:
        return [form.name for form in backend(self.plan.target).forms if form.decoder and form.name != self.plan.form]
