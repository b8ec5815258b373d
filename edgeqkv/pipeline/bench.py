"""Measuring bundles against each other: in turn, each time in a process of its own.

Whatever else the machine does, and how warm it is, changes over minutes and so falls on all of them; a process that
starts anew every time shows loading too, and no bundle finds another's memory or threads.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from pydantic import BaseModel, ConfigDict, computed_field

from edgeqkv.backends import backend
from edgeqkv.budget.plan import ModelShape, footprint_of, plan_of
from edgeqkv.bundle.bundle import Bundle
from edgeqkv.bundle.manifest import Artifact
from edgeqkv.errors import EdgeQKVError, InputError
from edgeqkv.pipeline.worker import bench_in_worker
from edgeqkv.progress import Progress, silent
from edgeqkv.run.bench import Load, Round, check_load, default_fills
from edgeqkv.run.session import choose_engine
from edgeqkv.settings import check, check_all

__all__ = ["BenchResult", "Decode", "Distribution", "bench_bundles"]

_SEED: Final = 20261127


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Distribution(_Record):
    """Something that was measured several times.

    Attributes:
        samples: every time.
    """

    samples: tuple[float, ...]

    @computed_field  # type: ignore[prop-decorator]
    @property
    def p50(self) -> float:
        """The median."""
        return float(np.percentile(self.samples, 50))

    @computed_field  # type: ignore[prop-decorator]
    @property
    def p95(self) -> float:
        """What 95 of 100 times were no more than."""
        return float(np.percentile(self.samples, 95))


class Decode(_Record):
    """Decoding at one fill of the state.

    Attributes:
        fill: tokens that stood in the state before.
        milliseconds: of a token.
        bytes: what a token has to read: the weights, and as much of the state as is filled. None where nothing tells.
        share: of the measured read bandwidth that this comes to, by the median.
    """

    fill: int
    milliseconds: Distribution
    bytes: int | None
    share: float | None


class BenchResult(_Record):
    """What was measured of one target of one bundle.

    Attributes:
        bundle, target, variant, form, weights, state, context, engine: what was run.
        threads: as many as were asked for; None: what the runtime likes.
        count: tokens of the prompt, or an encoder's inputs.
        load_seconds: from the imported runtime to a session that has taken its first token.
        first_token_milliseconds: the first prompt after loading, up to the logits after it.
        prompt_milliseconds: the prompt, warm; of an encoder, its inputs.
        decode: at each fill.
        peak_bytes: the most memory that a process held; 0 where the system does not tell.
        imported_bytes: what it held with the runtime imported and no model.
        read_bytes_per_second: how fast this machine read memory, with as many threads.
    """

    bundle: str
    target: str
    variant: str
    form: str
    weights: str
    state: str | None
    context: int | None
    engine: str
    threads: int | None
    count: int
    load_seconds: Distribution
    first_token_milliseconds: Distribution
    prompt_milliseconds: Distribution
    decode: tuple[Decode, ...]
    peak_bytes: int
    imported_bytes: int
    read_bytes_per_second: float

    @computed_field  # type: ignore[prop-decorator]
    @property
    def prompt_per_second(self) -> float:
        """Tokens a second of the prompt, or inputs a second, by the median."""
        return self.count / self.prompt_milliseconds.p50 * 1000


@dataclass(frozen=True)
class _Entry:
    """One target of one bundle, and what it is to do."""

    bundle: Bundle
    artifact: Artifact
    engine: str
    load: Load


def bench_bundles(
    bundles: Sequence[Bundle],
    target: str | None = None,
    *,
    prompt: int,
    generate: int,
    fills: Sequence[int] | None,
    repeats: int,
    rounds: int,
    warmup: int,
    threads: int | None,
    engine: str | None,
    on_progress: Progress = silent,
) -> tuple[BenchResult, ...]:
    """Measure every bundle's named target, or all of its targets; see `edgeqkv.bench`."""
    check_all(prompt=prompt, generate=generate, repeats=repeats, rounds=rounds, warmup=warmup, threads=threads)
    for fill in fills or ():
        check("fills", fill)
    entries = []
    for bundle in bundles:
        for name in bundle.targets if target is None else (target,):
            artifact = bundle.target(name).artifact
            own = choose_engine(backend(artifact.target), engine)
            entries.append(
                _Entry(bundle, artifact, own, _load(bundle, artifact, prompt, generate, fills, repeats, warmup))
            )
    measured: dict[int, list[Round]] = {index: [] for index in range(len(entries))}
    order = random.Random(_SEED)
    turns = [index for _ in range(rounds) for index in order.sample(range(len(entries)), len(entries))]
    for done, index in enumerate(turns):
        entry = entries[index]
        on_progress("measuring in turn" if len(entries) > 1 else "measuring", done / len(turns))
        measured[index].append(bench_in_worker(entry.bundle.path, entry.artifact, entry.engine, entry.load, threads))
    speeds = [each.bytes_per_second for rows in measured.values() for each in rows]
    speed = float(np.median(speeds))
    return tuple(_result(entry, measured[index], threads, speed) for index, entry in enumerate(entries))


def _load(
    bundle: Bundle,
    artifact: Artifact,
    prompt: int,
    generate: int,
    fills: Sequence[int] | None,
    repeats: int,
    warmup: int,
) -> Load:
    context = artifact.context
    if context is None:
        if fills:
            raise InputError(f"{bundle.path} holds an encoder, which keeps no state to be filled; leave out --fill")
        return Load(prompt=prompt, generate=generate, repeats=repeats, warmup=warmup)
    at = default_fills(context, generate) if fills is None else tuple(sorted(set(fills)))
    load = Load(prompt=prompt, generate=generate, fills=at, repeats=repeats, warmup=warmup)
    check_load(load, context, str(bundle.path))
    if not at:
        raise InputError(f"{generate} tokens fill the context of {context} of {bundle.path}; choose fewer")
    return load


def _result(entry: _Entry, rounds: Sequence[Round], threads: int | None, speed: float) -> BenchResult:
    artifact, load = entry.artifact, entry.load
    decode = []
    for place, fill in enumerate(load.fills):
        milliseconds = Distribution(samples=tuple(1000 * each for row in rounds for each in row.tokens[place]))
        needed = _bytes_per_token(entry, fill + load.generate // 2)
        share = None if needed is None or not speed else needed / (milliseconds.p50 / 1000) / speed
        decode.append(Decode(fill=fill, milliseconds=milliseconds, bytes=needed, share=share))
    return BenchResult(
        bundle=str(entry.bundle.path),
        target=artifact.target,
        variant=entry.bundle.manifest.model.variant,
        form=artifact.form,
        weights=artifact.weights,
        state=artifact.state,
        context=artifact.context,
        engine=entry.engine,
        threads=threads,
        count=load.prompt,
        load_seconds=Distribution(samples=tuple(each.load for each in rounds)),
        first_token_milliseconds=Distribution(samples=tuple(1000 * each.first_token for each in rounds)),
        prompt_milliseconds=Distribution(samples=tuple(1000 * each for row in rounds for each in row.prompts)),
        decode=tuple(decode),
        peak_bytes=max(each.peak_bytes for each in rounds),
        imported_bytes=max(each.imported_bytes for each in rounds),
        read_bytes_per_second=speed,
    )


def _bytes_per_token(entry: _Entry, fill: int) -> int | None:
    """What decoding a token reads where ``fill`` stand in the state; None where the target does not tell."""
    artifact, shape = entry.artifact, ModelShape.of_card(entry.bundle.manifest.model)
    try:
        terms = footprint_of(entry.bundle.path, artifact, plan_of(shape, artifact, 0)).terms
    except EdgeQKVError:  # a family whose shapes cannot be told from its card
        return None
    part = min(fill / (artifact.context or 1), 1.0)
    return round(sum(term.bytes * (part if term.name == "state" else 1) for term in terms if term.streamed))
