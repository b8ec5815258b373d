"""How fast decoding is: measured, if it was; else a bound, where there is one that means something."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edgeqkv.backends.footprint import MIB, Footprint
from edgeqkv.budget.devices import Fact, Status
from edgeqkv.errors import InputError
from edgeqkv.reading import of_field, read_json

__all__ = ["CACHED", "GB", "MeasuredSpeed", "Roofline", "read_bench", "roofline"]

GB: Final = 10**9

CACHED: Final = 64 * MIB
"""What a token reads at least for its time to be the memory's. Less may stay in a processor's caches from token to
token (32 MiB is the most that a phone's has), and then the memory's bandwidth bounds nothing."""


@dataclass(frozen=True)
class Roofline:
    """A bound on decoding: tokens a second if reading memory were all there is to do. Not a prediction."""

    tokens_per_second: float
    bytes_per_token: int
    bandwidth_gbs: float
    status: Status
    note: str
    sources: tuple[str, ...]


@dataclass(frozen=True)
class MeasuredSpeed:
    """Tokens a second that `edgeqkv bench` measured while decoding, with so many tokens in the state."""

    decode: float
    fill: int


def roofline(bandwidth: Fact[float | None], predicted: Footprint) -> Roofline | None:
    """The bound; None where the bandwidth is not known, or a token reads too little for it to be one."""
    if bandwidth.value is None or predicted.streamed < CACHED:
        return None
    return Roofline(
        tokens_per_second=bandwidth.value * GB / predicted.streamed,
        bytes_per_token=predicted.streamed,
        bandwidth_gbs=bandwidth.value,
        status=bandwidth.status,
        note=bandwidth.note,
        sources=bandwidth.sources,
    )


class _Record(BaseModel):
    model_config = ConfigDict(extra="ignore")


class _Timing(_Record):
    p50: Annotated[float, Field(gt=0, allow_inf_nan=False)]


class _Decoding(_Record):
    fill: Annotated[int, Field(ge=0)]
    milliseconds: _Timing


class _Result(_Record):
    decode: Annotated[tuple[_Decoding, ...], Field(max_length=10_000)]


class _Bench(_Record):
    results: Annotated[tuple[_Result, ...], Field(min_length=1, max_length=100)]


def read_bench(path: Path) -> MeasuredSpeed:
    """What ``edgeqkv bench DIR --json`` printed into a file: the median of the first bundle, at its highest fill.

    Raises:
        InputError: it is missing, no JSON, or of something else.
    """
    content = read_json(path, "result of 'edgeqkv bench --json'")
    try:
        results = _Bench.model_validate(content).results
    except ValidationError as error:
        first = error.errors()[0]
        told = of_field(first["loc"], first["msg"])
        raise InputError(f"{path} is not what 'edgeqkv bench DIR --json' prints: {told}") from error
    fullest = max(results[0].decode, key=lambda each: each.fill, default=None)
    if fullest is None:
        raise InputError(f"{path} has no decoding; 'edgeqkv bench DIR --json' measures it of a language model")
    return MeasuredSpeed(1000 / fullest.milliseconds.p50, fullest.fill)
