"""From what an app measured on a device to an entry of the catalogue, and the text of the pull request that adds it.

A number of the catalogue is replaced only by one that is known better: what the vendor documents stays.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import yaml

from edgeqkv.budget.device_comparison import OnDevice
from edgeqkv.budget.device_report import DeviceReport
from edgeqkv.budget.devices import Catalogue, Device, Fact, MeasuredRun
from edgeqkv.budget.speed import GB
from edgeqkv.errors import InputError
from edgeqkv.units import amount

__all__ = ["MARK", "Contribution", "contribution"]

MARK: Final = "edgeqkv contribute"
"""Stands in the first line of what is written, by which an older one is known."""

_SOLD: Final = (0.5, 1, 1.5, 2, 3, 4, 6, 8, 10, 12, 16, 18, 24, 32, 48, 64, 96, 128)
"""Sizes of memory that devices are sold with, in GB."""

_SYSTEMS: Final = {"android": "android", "ios": "ios", "ipados": "ios", "linux": "linux"}
_ATTACHED: Final = "the device reports attached to the pull request"


@dataclass(frozen=True)
class Contribution:
    """What to hand in: the device's name in the catalogue, a file for ``--devices`` with its entry, and the text."""

    name: str
    entry: str
    text: str


def contribution(
    reports: Sequence[DeviceReport],
    catalogue: Catalogue,
    *,
    name: str | None = None,
    source: str | None = None,
    raised: bool = False,
    compared: Sequence[OnDevice] = (),
) -> Contribution:
    """Work out what the reports of one device say that the catalogue does not know, or less well.

    Args:
        reports: runs of one bundle's target on one device.
        catalogue: what is known.
        name: the device's name there; without one, it is made of what the device calls itself.
        source: where the reports can be read; without one, the pull request that they are attached to.
        raised: whether the app had the system's permission to take more (iOS: the entitlement).
        compared: the reports with the predictions beside them, for those whose bundle was at hand.

    Raises:
        InputError: the reports are of several devices, bundles or targets, of a browser, or of an unknown system.
    """
    first = _alike(reports)
    key = _key(name or first.device.name)
    if not key:
        raise InputError(f"'{name or first.device.name}' is no name for the catalogue; give one with --device")
    known = catalogue.devices.get(key)
    if key in catalogue.npus:
        raise InputError(f"'{key}' is an NPU; a device report is of the phone, tablet, board or wearable that has it")
    where = (source or _ATTACHED,)
    old = known or _unknown(first)
    changes: dict[str, Fact[Any]] = {}
    if (ram := _ram(reports, where)) is not None:
        changes["ram_gb"] = ram
    changes |= _limits(reports, old, where, raised=raised)
    kept = {field: fact for field, fact in changes.items() if _is_better(fact, getattr(old, field), known is not None)}
    runs = tuple(_run(report, compared, where[0]) for report in reports)
    new = old.model_copy(update={**kept, "measurements": (*old.measurements, *runs)})
    return Contribution(key, _entry(key, new), _text(key, known, new, kept, reports, compared))


def _alike(reports: Sequence[DeviceReport]) -> DeviceReport:
    """The first report, once all are seen to be of one thing."""
    if not reports:
        raise InputError("no device report was given")
    first = reports[0]
    for told, what in (
        ({each.device.name for each in reports}, "devices"),
        ({each.manifest_sha256 for each in reports}, "bundles"),
        ({each.target for each in reports}, "targets"),
    ):
        if len(told) > 1:
            raise InputError(f"the reports are of several {what} ({', '.join(sorted(told))}); hand in one at a time")
    if any(each.browser for each in reports):
        raise InputError("a browser's figures count a page and not a process; the catalogue takes reports of apps")
    return first


def _key(name: str) -> str:
    """A name as the catalogue spells them.

    >>> _key("Pixel 9 Pro"), _key("iPhone16,2")
    ('pixel-9-pro', 'iphone16-2')
    """
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def _unknown(report: DeviceReport) -> Device:
    """A device of which nothing is known but what the report says."""
    system = _SYSTEMS.get(report.system.name.lower())
    if system is None:
        raise InputError(
            f"the catalogue has devices of Android, iOS and Linux, and the report is of {report.system.name}"
        )
    name = _plain(report.device.name)
    kind = "board" if system == "linux" else "tablet" if re.search("ipad|tab", name.lower()) else "phone"
    nothing = Fact[Any](value=None, status="unknown")
    return Device(
        title=name,
        kind="wearable" if "watch" in name.lower() else kind,  # type: ignore[arg-type]
        system=system,  # type: ignore[arg-type]
        soc=_plain(report.device.processor or "unknown"),
        ram_gb=Fact[float](value=_sold(report.device.ram_bytes or GB), status="unknown"),
        mem_bandwidth_gbs=nothing,
        process_limit_default_gb=nothing,
        process_limit_max_gb=nothing,
        os_reserved_gb=nothing,
    )


def _plain(text: str) -> str:
    """A text in one line that is no markup: names are a device's own."""
    return " ".join(re.sub(r"[^\w .,;:()+/-]", " ", text).split())


def _sold(size: int) -> float:
    """The size that a device is sold with which shows its system so many bytes: the next larger one.

    >>> _sold(15_800_000_000), _sold(3_980_000_000)
    (16, 4)
    """
    return next((each for each in _SOLD if each * 2**30 >= size), round(size / 2**30))


def _ram(reports: Sequence[DeviceReport], where: tuple[str, ...]) -> Fact[Any] | None:
    told = [each.device.ram_bytes for each in reports if each.device.ram_bytes]
    if not told:
        return None
    note = f"the system shows {max(told):,} bytes; rounded up to what is sold"
    return Fact[Any](value=_sold(max(told)), status="community-measured", sources=where, note=note)


def _limits(
    reports: Sequence[DeviceReport], old: Device, where: tuple[str, ...], *, raised: bool
) -> dict[str, Fact[Any]]:
    """The limit that the system told; else the most that a process took without being killed, where that says more."""
    first, runs = reports[0], f"{len(reports)} run{'s' if len(reports) > 1 else ''}"
    field = "process_limit_max_gb" if raised else "process_limit_default_gb"
    system = _system(first)
    memories = [each.memory for each in reports if each.memory]
    if told := [memory.limit_bytes for memory in memories if memory.limit_bytes]:
        value, note = min(told), f"told by the system, {system}, {runs}"
    elif memories:
        value = max(memory.peak_bytes for memory in memories)
        note = f"a lower bound: so much was taken without a kill, {system}, {runs}"
        now = getattr(old, field).value
        if now is not None and value <= now * GB:
            return {}
    else:
        return {}
    return {field: Fact[Any](value=round(value / GB, 2), status="community-measured", sources=where, note=note)}


def _is_better(new: Fact[Any], old: Fact[Any], known: bool) -> bool:
    """Whether a measured fact replaces what the catalogue has: nothing that the vendor documents."""
    return not known or old.value is None or (old.status != "vendor-documented" and new.value != old.value)


def _run(report: DeviceReport, compared: Sequence[OnDevice], source: str) -> MeasuredRun:
    memory = report.memory
    beside = next((each for each in compared if each.report is report), None)
    peak = next((row for row in beside.rows if row.name == "peak"), None) if beside else None
    return MeasuredRun(
        date=f"{report.date:%Y-%m-%d}",
        target=report.target,
        runtime=_runtime(report),
        tokens=report.filled,
        memory_mb=round((memory.peak_bytes - memory.before_bytes) / 10**6, 1) if memory else None,
        predicted_mb=round(peak.predicted / 10**6, 1) if peak else None,
        decode_tokens_per_second=round(report.decode.tokens_per_second, 1),
        source=source,
    )


def _system(report: DeviceReport) -> str:
    return _plain(f"{report.system.name} {report.system.version}")


def _runtime(report: DeviceReport) -> str:
    return _plain(f"{report.runtime.name} {report.runtime.version}")


class _Dumper(yaml.SafeDumper):  # type: ignore[misc]
    """Indents lists, as the catalogue does."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)


def _entry(key: str, device: Device) -> str:
    content = device.model_dump(mode="json", exclude_defaults=True)
    text = yaml.dump({"devices": {key: content}}, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)
    return f"# {MARK}: for edgeqkv/budget/devices.yaml; read it here with --devices FILE\n{text}"


def _text(
    key: str,
    known: Device | None,
    new: Device,
    changed: dict[str, Fact[Any]],
    reports: Sequence[DeviceReport],
    compared: Sequence[OnDevice],
) -> str:
    first = reports[0]
    lines = [
        f"<!-- {MARK} -->",
        f"# {new.title}: measured",
        "",
        f"{'New numbers for' if known else 'A new entry,'} `{key}`, from {len(reports)} run(s) of target "
        f"`{first.target}` with {_plain(first.app.name)} {_plain(first.app.version)} on {_system(first)} "
        f"({_runtime(first)}).",
        "",
        "| run | prefill, tokens/s | decode, tokens/s | memory before | at most | limit told | warmth after |",
        "|---|---|---|---|---|---|---|",
        *(_row(each) for each in reports),
        "",
        "| number | in the catalogue | measured | how |",
        "|---|---|---|---|",
    ]
    for field, fact in changed.items():
        before = getattr(known, field) if known else None
        was = "nothing" if before is None or before.value is None else f"{before.value:g} ({before.status})"
        lines.append(f"| `{field}` | {was} | {fact.value:g} | {fact.note} |")
    if not changed:
        lines.append("| none | | | the catalogue already knows as much; the runs are added to `measurements` |")
    for each in compared[:1]:
        lines += ["", "Beside the prediction:", "", "| what | predicted | measured | error |", "|---|---|---|---|"]
        lines += [
            f"| {row.name} | {amount(row.predicted)} | {amount(row.measured)} | {row.error:+.1%} |" for row in each.rows
        ]
    return "\n".join(
        [
            *lines,
            "",
            "- [ ] All reports are attached, also where they disagree.",
            "- [ ] The app was started anew for each, before anything else had loaded the runtime.",
            "- [ ] The model was of hundreds of MB, and its context was filled.",
            "- [ ] `python -m edgeqkv.budget.measured_page > docs/measured.md` was run.",
            "",
        ]
    )


def _row(report: DeviceReport) -> str:
    memory, thermal = report.memory, report.thermal
    before, most = (amount(memory.before_bytes), amount(memory.peak_bytes)) if memory else ("not read", "not read")
    limit = amount(memory.limit_bytes) if memory and memory.limit_bytes else "not told"
    speeds = f"{report.prefill.tokens_per_second:.1f} | {report.decode.tokens_per_second:.1f}"
    warm = _plain(thermal.after) if thermal else ""
    return f"| {report.date:%Y-%m-%d %H:%M} | {speeds} | {before} | {most} | {limit} | {warm} |"
