"""``edgeqkv contribute``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgeqkv.cli import console
from edgeqkv.cli.options import DevicesFile, Json
from edgeqkv.disk.files import check_place, write_text
from edgeqkv.errors import InputError

__all__ = ["contribute"]

_ENTRY, _TEXT = "entry.yaml", "pull-request.md"


def contribute(
    reports: Annotated[
        list[Path], typer.Argument(metavar="REPORT…", help="device-report.json of one device, from several runs.")
    ],
    device: Annotated[
        str | None,
        typer.Option(
            "--device", "-d", metavar="NAME", help="Its name in the catalogue. Default: what it calls itself."
        ),
    ] = None,
    bundle: Annotated[
        Path | None,
        typer.Option("--bundle", metavar="DIR", help="The bundle that ran there, to say what was predicted."),
    ] = None,
    source: Annotated[
        str | None, typer.Option("--source", metavar="URL", help="Where the reports can be read, if they can already.")
    ] = None,
    raised: Annotated[
        bool, typer.Option("--raised-limit", help="The app had iOS's increased-memory-limit entitlement.")
    ] = False,
    own: DevicesFile = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help=f"Write {_ENTRY} and {_TEXT} there; else print both.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Turn what was measured on a device into an entry of the catalogue and a pull request's text."""
    from edgeqkv.budget.beside import compared_with
    from edgeqkv.budget.contribution import MARK, contribution
    from edgeqkv.budget.device_report import read_device_report
    from edgeqkv.budget.devices import load_catalogue

    read = [read_device_report(file) for file in reports]
    compared = [compared_with(bundle, each) for each in read] if bundle is not None else []
    found = contribution(read, load_catalogue(own), name=device, source=source, raised=raised, compared=compared)
    if out is not None:
        inputs = [each for each in (*reports, bundle, own) if each is not None]
        try:
            out.mkdir(exist_ok=True)
        except OSError as error:
            raise InputError(f"cannot write into {out}: {error.strerror}; name a folder") from error
        files = {out / _ENTRY: found.entry, out / _TEXT: found.text}
        for place in files:
            check_place(place, MARK.encode(), inputs)
        for place, text in files.items():
            write_text(place, text, MARK.encode(), inputs)
    if as_json:
        console.print_json({"device": found.name, "entry": found.entry, "text": found.text})
    elif out is not None:
        told = [("entry", out / _ENTRY), ("pull request", out / _TEXT)]
        console.print_facts(f"{found.name}: what was measured", told)
    else:
        console.print_stream([found.entry, "\n", found.text])
