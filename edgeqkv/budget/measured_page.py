"""``docs/measured.md``: what was measured on which device, with an empty row for each that waits for somebody.

Written by ``python -m edgeqkv.budget.measured_page > docs/measured.md``.
"""

from __future__ import annotations

import sys

from edgeqkv.budget.devices import Catalogue, Device, Fact, load_catalogue
from edgeqkv.budget.sentences import mark

__all__ = ["page"]

_HEAD = """# Measured devices

What was measured on a device with the sample apps, beside what the catalogue says of it. **{told}** An empty row asks
for help: with the device in your hand it takes a quarter of an hour.

```console
$ edgeqkv contribute device-report.json --out contribution
```

writes the catalogue's entry and a pull request's text from the reports that an app saved;
[how to measure](../device_tests/CONTRIBUTING-DEVICES.md). `~`: reported by others; `?`: an assumption; no mark: the
maker documents it. Memory is above what the app took before it opened the model, in MB of 10⁶ bytes.

"""

_COLUMNS = ("device", "RAM", "app limit", "measured on", "target", "tokens", "memory", "predicted", "decode, tokens/s")


def page(catalogue: Catalogue) -> str:
    """The page of a catalogue's devices."""
    measured = sum(bool(device.measurements) for device in catalogue.devices.values())
    none = f"Nobody has measured any of the {len(catalogue.devices)} yet."
    told = f"{measured} of {len(catalogue.devices)} are measured." if measured else none
    rows = [row for name, device in catalogue.devices.items() for row in _rows(name, device)]
    lines = [_COLUMNS, tuple("---" for _ in _COLUMNS), *rows]
    return _HEAD.format(told=told) + "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _rows(name: str, device: Device) -> list[tuple[str, ...]]:
    start = (f"{device.title} (`{name}`)", _shown(device.ram_gb), _shown(device.process_limit_default_gb))
    if not device.measurements:
        return [(*start, "yours?", *([""] * (len(_COLUMNS) - len(start) - 1)))]
    return [
        (
            *start,
            run.date,
            f"{run.target}, {run.runtime}",
            str(run.tokens),
            "" if run.memory_mb is None else f"{run.memory_mb:g}",
            "" if run.predicted_mb is None else f"{run.predicted_mb:g}",
            f"{run.decode_tokens_per_second:g}",
        )
        for run in device.measurements
    ]


def _shown(fact: Fact[float] | Fact[float | None]) -> str:
    return f"{fact.value:g} GB{mark(fact.status)}" if fact.value is not None else f"not known{mark(fact.status)}"


if __name__ == "__main__":
    sys.stdout.write(page(load_catalogue()))
