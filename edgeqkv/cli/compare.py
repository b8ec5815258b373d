"""``edgeqkv compare``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import edgeqkv
from edgeqkv.cli import console
from edgeqkv.cli.command import OUTPUT
from edgeqkv.cli.options import DeviceNames, DevicesFile, Json

__all__ = ["compare"]


def compare(
    bundles: Annotated[list[Path], typer.Argument(metavar="DIR...", help="Bundles: the folders that 'export' wrote.")],
    device: DeviceNames = None,
    own: DevicesFile = None,
    bench: Annotated[
        bool, typer.Option("--bench", help="Measure their speed here, in turn ('edgeqkv bench' has its options).")
    ] = False,
    html: Annotated[
        Path | None,
        typer.Option(
            "--html",
            metavar="FILE",
            help="Write the comparison as a page, over an older one at most.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Put bundles side by side: size, state, perplexity, memory, verdicts, and with --bench speed."""
    if html is not None:
        from edgeqkv.budget.html import GENERATOR
        from edgeqkv.disk.files import check_place

        check_place(html, GENERATOR, bundles)
    with console.progress() as on_progress:
        compared = edgeqkv.compare(bundles, device or (), devices=own, bench=bench, on_progress=on_progress)
    from edgeqkv.pipeline.comparison import notes_of, page, rows_of

    if html is not None:
        from edgeqkv.budget.html import GENERATOR
        from edgeqkv.disk.files import write_text

        write_text(html, page(compared, GENERATOR.decode()), GENERATOR, bundles)
    if as_json:
        console.print_json({"bundles": [each.to_json() for each in compared]})
        return
    rows = [(row.name, *row.cells) for row in rows_of(compared)]
    console.print_table(("", *(each.name for each in compared)), rows)
    for note in notes_of(compared):
        console.print_note(note)
