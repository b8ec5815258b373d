"""``edgeqkv bench``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

import edgeqkv
from edgeqkv.cli import completion, console
from edgeqkv.cli.command import OUTPUT
from edgeqkv.cli.options import Engine, Json
from edgeqkv.errors import InputError
from edgeqkv.settings import check, check_all
from edgeqkv.units import amount, duration

if TYPE_CHECKING:
    from edgeqkv.pipeline.bench import BenchResult, Distribution

__all__ = ["Rows", "bench", "names_of", "rows_of"]

Rows = list[tuple[str, ...]]
"""A row a figure: its name, and the figure of each result."""

_NOTE: Final = "medians / 95th percentiles; compare figures of one run alone"


def bench(
    bundles: Annotated[list[Path], typer.Argument(metavar="DIR...", help="Bundles: the folders that 'export' wrote.")],
    prompt: Annotated[
        int, typer.Option("--prompt", "-p", metavar="N", help="Tokens of the prompt; of an encoder, inputs.")
    ] = 128,
    generate: Annotated[
        int, typer.Option("--generate", "-n", metavar="N", help="Tokens that follow one by one, at each fill.")
    ] = 16,
    fills: Annotated[
        list[int] | None,
        typer.Option(
            "--fill", metavar="N", help="Tokens in the state before; may repeat. Default: 128, half, nearly full."
        ),
    ] = None,
    repeats: Annotated[
        int, typer.Option("--repeats", "-r", metavar="N", help="Repetitions in a process that count.")
    ] = 5,
    rounds: Annotated[int, typer.Option("--rounds", metavar="N", help="Processes of each bundle, in turn.")] = 3,
    warmup: Annotated[
        int, typer.Option("--warmup", metavar="N", help="Repetitions in a process that do not count.")
    ] = 1,
    threads: Annotated[
        int | None, typer.Option("--threads", metavar="N", help="Threads. Default: what each runtime likes.")
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(
            "--target",
            "-t",
            metavar="NAME",
            help="Which of the bundles' targets. Default: all.",
            autocompletion=completion.held_targets,
        ),
    ] = None,
    engine: Engine = None,
    as_markdown: Annotated[
        bool, typer.Option("--markdown", help="Print the table as Markdown.", rich_help_panel=OUTPUT)
    ] = False,
    as_json: Json = False,
) -> None:
    """Measure how fast bundles run on this machine, in turn, each in processes of its own."""
    check_all(prompt=prompt, generate=generate, repeats=repeats, rounds=rounds, warmup=warmup, threads=threads)
    for fill in fills or ():
        check("fills", fill)
    if as_markdown and as_json:
        raise InputError("--markdown and --json are two ways to print one result; give one of them")
    with console.progress() as on_progress:
        results = edgeqkv.bench(
            bundles,
            target,
            prompt=prompt,
            generate=generate,
            fills=fills,
            repeats=repeats,
            rounds=rounds,
            warmup=warmup,
            threads=threads,
            engine=engine,
            on_progress=on_progress,
        )
    if as_json:
        console.print_json({"results": [each.model_dump(mode="json") for each in results]})
        return
    head, rows = ("", *names_of(results)), rows_of(results)
    if as_markdown:
        console.print_markdown(head, rows)
    else:
        console.print_table(head, rows)
    console.print_note(f"{_NOTE}; {_threads(threads)}, {rounds} × {repeats} repetitions")
    if any(at.share is not None and at.share > 1 for each in results for at in each.decode):
        console.print_note(
            "a share above 100% says that a small model is read from a cache, or that the machine was busy meanwhile"
        )


def names_of(results: Sequence[BenchResult]) -> list[str]:
    """What tells results apart: the folder, with the target where it has several."""
    paths = [each.bundle for each in results]
    short = [Path(path).name for path in paths]
    unique = len({Path(path).name for path in paths}) == len(set(paths))
    shown = short if unique else paths
    return [
        name if paths.count(path) == 1 else f"{name} {each.target}"
        for name, path, each in zip(shown, paths, results, strict=True)
    ]


def rows_of(results: Sequence[BenchResult]) -> Rows:
    """The figures, a row each."""
    rows: Rows = []

    def add(name: str, figures: Sequence[str]) -> None:
        if any(figures):
            rows.append((name, *figures))

    add("runs", [f"{each.target} {each.form}, {each.weights}" for each in results])
    add("in", [each.engine for each in results])
    kinds = {each.context is None for each in results}
    for encoder in sorted(kinds):
        of = [each if (each.context is None) == encoder else None for each in results]
        what = "inputs" if encoder else "tokens"
        count = max(each.count for each in results)
        add(
            f"{what} at once" if encoder else f"prompt, {count} tokens",
            [f"{each.prompt_per_second:,.0f} {what}/s" if each else "" for each in of],
        )
    add("- takes", [_milliseconds(each.prompt_milliseconds) for each in results])
    for fill in sorted({each.fill for result in results for each in result.decode}):
        at = [next((each for each in result.decode if each.fill == fill), None) for result in results]
        add(f"a token after {fill}", [_milliseconds(each.milliseconds) if each else "" for each in at])
        add("- of the bandwidth", [f"{each.share:.0%}" if each and each.share is not None else "" for each in at])
    add("first token", [_milliseconds(each.first_token_milliseconds) for each in results])
    add("load", [_seconds(each.load_seconds) for each in results])
    add("peak memory", [amount(each.peak_bytes) if each.peak_bytes else "not told" for each in results])
    add(
        "- above the import",
        [amount(each.peak_bytes - each.imported_bytes) if each.peak_bytes else "" for each in results],
    )
    add("memory is read at", [f"{amount(each.read_bytes_per_second)}/s" for each in results])
    return rows


def _milliseconds(times: Distribution) -> str:
    digits = 2 if times.p50 < 10 else 1 if times.p50 < 100 else 0
    return f"{times.p50:,.{digits}f} / {times.p95:,.{digits}f} ms"


def _seconds(times: Distribution) -> str:
    return f"{duration(times.p50)} / {duration(times.p95)}"


def _threads(asked: int | None) -> str:
    if asked:
        return "1 thread" if asked == 1 else f"{asked} threads"
    return f"threads as each runtime likes, of {os.cpu_count()} cores"
