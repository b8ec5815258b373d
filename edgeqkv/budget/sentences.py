"""The answers in words: one sentence a device, one for all of them, and what is known of the speed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from edgeqkv.budget.answers import Answer
from edgeqkv.budget.devices import Status
from edgeqkv.budget.speed import CACHED, MeasuredSpeed
from edgeqkv.budget.verdicts import ROOM, Confidence, NpuVerdict, Verdict
from edgeqkv.units import amount

__all__ = ["ASSUMED", "Sentence", "headline", "mark", "npu_sentence", "percent", "sentence", "speed_sentence"]

ASSUMED: Final = "?"
"""Stands behind every number that rests on an assumption (status unknown)."""

_MARKS: Final = {"vendor-documented": "", "community-measured": "~", "unknown": ASSUMED}
_MAKERS: Final = {"ios": "Apple"}


def mark(status: Status) -> str:
    """The sign behind a number of this status."""
    return _MARKS[status]


def percent(part: float) -> str:
    """A share, with a digit more where it is small.

    >>> percent(0.12), percent(0.004), percent(0.0)
    ('12 %', '0.4 %', '0 %')
    """
    return f"{part:.0%}".replace("%", " %") if part >= 0.0995 or part == 0 else f"{part:.1%}".replace("%", " %")


@dataclass(frozen=True)
class Sentence:
    """What is to be said of a device: the numbers, and how the limit is known."""

    numbers: str
    known: str

    def __str__(self) -> str:
        return f"{self.numbers} {self.known}".strip()


def sentence(answer: Answer) -> Sentence:
    """Whether the app will be killed there, in numbers."""
    if answer.kind == "npu":
        said = f"{answer.on_npu.verdict if answer.on_npu else NpuVerdict.OPEN}: {npu_sentence(answer)}"
        return Sentence(said[0].upper() + said[1:], "")
    peak, limit = answer.candidate.footprint.peak, answer.limits[0].bytes
    much = amount(peak) + (ASSUMED if answer.candidate.footprint.assumes else "")
    if limit is None:
        return Sentence(f"{much}. What an app may take there is not known.", "")
    of = f"{much} of {amount(limit)}, {percent(peak / limit)}"
    match answer.verdict:
        case Verdict.NOT:
            numbers = f"{of}: {amount(peak - limit)} too much."
        case Verdict.TIGHT:
            numbers = f"{of}: less than {percent(1 - ROOM)} is left."
        case _:
            times = limit // peak
            numbers = f"{of}. Room for {times:,} ×." if times >= 2 else f"{of}."
    return Sentence(numbers, f"{_limit_known(answer)}{_prediction_known(answer)}")


def _limit_known(answer: Answer) -> str:
    maker = _MAKERS.get(answer.system, "its maker")
    return {
        "vendor-documented": f"Limit documented by {maker}.",
        "community-measured": f"Limit reported by others, not by {maker}.",
        "unknown": "Limit assumed: nobody has published it.",
    }[answer.limits[0].status]


def _prediction_known(answer: Answer) -> str:
    return " Part of what it takes is assumed too." if answer.candidate.footprint.assumes else ""


def npu_sentence(answer: Answer) -> str:
    """Why the export can run on the NPU, or cannot; nothing where there is none."""
    found = answer.on_npu
    if found is None:
        return ""
    match found.verdict:
        case NpuVerdict.FAILS:
            return f"{'; '.join(each.detail for each in found.failing)}."
        case NpuVerdict.RUNS | NpuVerdict.MEETS:
            compiled = answer.candidate.compiled
            simulated = ", and run in its maker's simulation" if compiled is not None and compiled.calls else ""
            made = f"compiled{simulated}; " if found.verdict == NpuVerdict.RUNS else ""
            still = [each.name for each in found.constraints if each.holds is None]
            beside = f", {', '.join(still)} not checked" if still else ""
            return f"{made}{len(found.constraints) - len(still)} demands are known{beside}."
        case _:
            return "Too little is published to say."


def headline(answers: Sequence[Answer]) -> str:
    """All devices in one sentence; of several exports for one device, the one that suits it best counts."""
    answers = list({each.device: each for each in sorted(answers, key=_suits)}.values())
    total = len(answers)
    places = "the device" if total == 1 else f"all {total} devices" if total else ""
    sure = [each for each in answers if each.verdict == Verdict.FITS and each.confidence != Confidence.ASSUMED]
    hoped = [each for each in answers if each.verdict == Verdict.FITS and each.confidence == Confidence.ASSUMED]
    if len(sure) == total:
        return f"It fits on {places}."
    if len(hoped) == total:
        return f"It fits on {places}, if what is assumed holds."
    said = []
    if sure:
        said.append(f"fits on {len(sure)} of {total} devices")
    if hoped:
        said.append(
            f"{'' if sure else 'fits '}on {len(hoped)}{' more' if sure else f' of {total}'} if what is assumed holds"
        )
    for verdict, words in (
        (Verdict.TIGHT, "is tight on"),
        (Verdict.NOT, "does not fit on"),
        (Verdict.UNKNOWN, "cannot be told for"),
    ):
        names = list(dict.fromkeys(each.title for each in answers if each.verdict == verdict))
        if names:
            all_of = f"{'any' if verdict == Verdict.NOT else 'all'} of {total} devices"
            many = all_of if len(names) == total else f"{len(names)} devices"
            said.append(f"{words} {names[0] if len(names) == 1 else many}")
    return f"It {', '.join(said[:-1])}, and {said[-1]}." if len(said) > 1 else f"It {said[0]}."


def _suits(answer: Answer) -> tuple[int, int]:
    """What grows with how well an export suits a device."""
    verdicts = (Verdict.NOT, Verdict.UNKNOWN, Verdict.TIGHT, Verdict.FITS)
    return verdicts.index(answer.verdict), -list(Confidence).index(answer.confidence)


def speed_sentence(answer: Answer, measured: MeasuredSpeed | None) -> Sentence:
    """What is known of decoding's speed there: the number that it rests on, and the rest."""
    elsewhere = (
        f" On the machine of 'edgeqkv bench': {measured.decode:.0f} tokens/s, measured with {measured.fill:,} before."
        if measured is not None
        else ""
    )
    bound = answer.roofline
    if bound is not None:
        reads = (
            f"{bound.bandwidth_gbs:g} GB/s of memory bandwidth over {amount(bound.bytes_per_token)} that a token reads"
        )
        said = f"at full context: {reads}. A bound, not a promise."
        return Sentence(f"At most {_rounded(bound.tokens_per_second)} tokens/s{mark(bound.status)}", said + elsewhere)
    if answer.candidate.footprint.streamed < CACHED:
        said = (
            f"No bound: a token reads {amount(answer.candidate.footprint.streamed)}, which may stay in the processor's "
            f"caches. Measure it there."
        )
    else:
        said = "No bound: its memory's bandwidth is not known. Measure it there."
    return Sentence("", said + elsewhere)


def _rounded(number: float) -> str:
    """Two digits of a number: a bound is no measurement.

    >>> _rounded(283.7), _rounded(31.4), _rounded(4.26)
    ('280', '31', '4.3')
    """
    if number < 10:
        return f"{number:.1f}"
    step = 10 ** (len(str(int(number))) - 2)
    return f"{int(number // step * step):,}"
