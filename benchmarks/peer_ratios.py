"""What the rows of `benchmarks.peers` come to, as ratios: of the least times and of the medians, of one run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from benchmarks.peer_exports import Own
from benchmarks.peer_models import WIDTH

__all__ = ["ratios"]

_KINDS: Final = ("min", "median")

Found = Mapping[str, Mapping[str, Any]]


def ratios(found: Found, own: Mapping[str, Own], bandwidth: float) -> list[dict[str, Any]]:
    """Lines, each with its numbers and a ``text``.

    Args:
        found: the rows.
        own: those of them that are edgeqkv's.
        bandwidth: gigabytes a second that reading alone gets.
    """
    merged = [name for name, each in own.items() if each != each.separate]
    short = [name for name in merged if own[name].context == 2048]
    return [
        *(line for peer in found if peer not in own for line in _against_peer(found, short, peer)),
        *_prompts(found, short, [name for name in found if name not in own]),
        *(line for name in merged if f"{name}, separate" in found for line in [_alike(found, name)]),
        *(_share(found, name, own[name], bandwidth) for name in short),
    ]


def _against_peer(found: Found, names: list[str], peer: str) -> Iterator[dict[str, Any]]:
    if found[peer]["file_bytes"] == 0:  # what reads memory is no peer
        return
    for name in names:
        yield _line(f"decode, {name} ÷ {peer}", _by_fill(found, name, peer))


def _prompts(found: Found, names: list[str], peers: list[str]) -> Iterator[dict[str, Any]]:
    timed = [peer for peer in peers if found[peer]["file_bytes"]]
    for name in names if timed else ():
        best = min(timed, key=lambda peer: float(found[peer]["prefill_seconds"]["min"]))
        values = {
            kind: round(found[name]["prefill_seconds"][kind] / found[best]["prefill_seconds"][kind], 3)
            for kind in _KINDS
        }
        yield _line(f"prompt, {name} ÷ {best} (the fastest peer)", {"512": values})


def _alike(found: Found, name: str) -> dict[str, Any]:
    return _line(f"merged ÷ separate, {name}", _by_fill(found, name, f"{name}, separate"))


def _share(found: Found, name: str, own: Own, bandwidth: float) -> dict[str, Any]:
    """Of the bandwidth, what reading a token's weights takes of it.

    Left out are the state, which is read as well, and the positions, in fp16, of which one row is.
    """
    size = (found[name]["file_bytes"] - own.context * WIDTH * 2) / 1e9
    values = {
        str(fill): {kind: round(size / (ms[kind] / 1e3) / bandwidth, 3) for kind in _KINDS}
        for fill, ms in found[name]["decode_ms"].items()
    }
    return _line(f"share of {bandwidth:.1f} GB/s, {name}", values)


def _by_fill(found: Found, one: str, other: str) -> dict[str, dict[str, float]]:
    times, others = found[one]["decode_ms"], found[other]["decode_ms"]
    return {
        str(fill): {kind: round(times[fill][kind] / others[fill][kind], 3) for kind in _KINDS}
        for fill in times
        if fill in others
    }


def _line(what: str, values: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    shown = " / ".join(f"{each['min']:.2f} ({each['median']:.2f})" for each in values.values())
    return {"what": what, "values": values, "text": f"{what}: {shown} at {' / '.join(values)}"}
