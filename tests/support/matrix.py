"""Matrices of parameters of which every test run takes a few members, and ``make test-full`` all."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from typing import Any

import pytest

__all__ = ["kept", "sampled"]

Trait = Callable[..., Hashable]
"""What a case shows, of its values."""


def sampled(cases: Iterable[tuple[Any, ...]], *traits: Trait) -> list[Any]:
    """All cases, of which those are marked ``full`` that the others make up for.

    What is left shows every value of every trait that any case shows: ``lambda name, form: form`` keeps each form,
    ``lambda name, form: (form, name in MERGED)`` each with merged keys and values and without. The first of those
    cases that show most is taken, as often as something is missing.
    """
    cases = list(cases)
    shown = [{(index, trait(*case)) for index, trait in enumerate(traits)} for case in cases]
    missing, taken = set().union(*shown), set[int]()
    while missing:
        best = max(range(len(cases)), key=lambda index: (len(shown[index] & missing), -index))
        taken.add(best)
        missing -= shown[best]
    marks = [() if index in taken else (pytest.mark.full,) for index in range(len(cases))]
    return [pytest.param(*case, marks=mark) for case, mark in zip(cases, marks, strict=True)]


def kept(parameters: Iterable[Any]) -> list[tuple[Any, ...]]:
    """The cases of `sampled` that every run takes, for others to use what they made."""
    return [parameter.values for parameter in parameters if not parameter.marks]
