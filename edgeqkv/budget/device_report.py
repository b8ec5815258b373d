"""``device-report.json``: what one run of a bundle took on a device, as the sample apps write it.

The run is always the same: read the memory, load the model, feed a prompt (prefill), then feed one token at a time
(decode). Together they should fill the context, because that is what the budget predicts.

Apps in other languages find the schema in ``device_tests/device-report.schema.json``, which is written by
``python -m edgeqkv.budget.device_report > device_tests/device-report.schema.json``.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from edgeqkv.backends.footprint import Phase
from edgeqkv.bundle.bundle import MANIFEST, Bundle
from edgeqkv.errors import InputError
from edgeqkv.reading import of_field, read_json, shown

__all__ = [
    "FORMAT",
    "DeviceReport",
    "Hardware",
    "Memory",
    "MemoryFigure",
    "Run",
    "Software",
    "Thermal",
    "check_bundle",
    "identity",
    "json_schema",
    "read_device_report",
]

FORMAT: Final = 1

MemoryFigure = Literal[
    "Debug.MemoryInfo.totalPss",
    "phys_footprint",
    "measureUserAgentSpecificMemory",
    "performance.memory.usedJSHeapSize",
]
"""The system's account that a memory size was read from. What each counts differs:

- ``Debug.MemoryInfo.totalPss`` (Android): allocated and mapped pages, swapped ones too, a shared page by its share.
- ``phys_footprint`` (iOS, macOS): what the process's limit is held against; a file's unchanged pages do not count.
- ``measureUserAgentSpecificMemory`` (browsers, page isolated): the page, its workers and their WebAssembly memory.
- ``performance.memory.usedJSHeapSize`` (Chromium): the calling thread's JavaScript heap.
"""

Bytes = Annotated[int, Field(ge=0)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Text = Annotated[str, Field(min_length=1)]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Hardware(_Record):
    """The device: the name its maker sells or calls it by (``Pixel 9 Pro``, ``iPhone16,2``), what it computes with,
    and how much memory the system says it has."""

    name: Text
    processor: Text | None = None
    ram_bytes: Bytes | None = None


class Software(_Record):
    """An app, an operating system, a runtime or a browser. ``settings`` says what is not the default, in words."""

    name: Text
    version: Text
    settings: str = ""


class Run(_Record):
    """Tokens fed, and the time until the logits of the last one were there."""

    tokens: Annotated[int, Field(ge=1)]
    seconds: Seconds

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds


class Memory(_Record):
    """What the system counted, in bytes: before the model was loaded, and the largest sample of each phase.

    ``limit_bytes`` is what the system said that the process may take in all, where it says so.
    """

    figure: MemoryFigure
    before_bytes: Bytes
    phases: Annotated[dict[Phase, Bytes], Field(min_length=1)]
    limit_bytes: Bytes | None = None

    @property
    def peak_bytes(self) -> int:
        return max(self.phases.values())


class Thermal(_Record):
    """How warm the device was, in the system's own words (``nominal``, ``THERMAL_STATUS_LIGHT``)."""

    before: Text
    after: Text


class DeviceReport(_Record):
    """One run of one target of a bundle. What an app cannot know is null.

    Attributes:
        format: counts up when the meaning of the file changes.
        date: when the run ended, with its time zone.
        app: what ran the bundle and wrote this.
        device: where.
        system: the operating system.
        browser: what the app ran in, if that was a browser.
        runtime: what computed: onnxruntime, onnxruntime-web, executorch, coreml; its settings name the threads, the
            execution provider or the compute units.
        manifest_sha256: of the bundle's ``manifest.json``, which has the checksums of all other files.
        target: which of the bundle's targets.
        load_seconds: from opening the model's file until it could be called.
        prefill: the prompt.
        decode: the tokens after it, one call each, choosing the next token included.
        state_bytes: what the app itself allocated for the KV state; null where the runtime holds it.
        memory: what the system counted; null if it was not read.
        thermal: null if the system does not say.
    """

    format: Literal[1]
    date: Annotated[AwareDatetime, Field(strict=False)]
    app: Software
    device: Hardware
    system: Software
    browser: Software | None = None
    runtime: Software
    manifest_sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    target: Text
    load_seconds: Seconds
    prefill: Run
    decode: Run
    state_bytes: Bytes | None = None
    memory: Memory | None = None
    thermal: Thermal | None = None

    @property
    def filled(self) -> int:
        """Positions of the context that the run filled."""
        return self.prefill.tokens + self.decode.tokens


def read_device_report(path: Path) -> DeviceReport:
    """Read a report.

    Raises:
        InputError: it is missing, no JSON, of another format, or a field is wrong; the message names it.
    """
    content = read_json(path, "device report")
    told = content.get("format")
    if told != FORMAT:
        raise InputError(
            f"{path} is of format {shown(told)}, and this edgeqkv reads device reports of format {FORMAT}. "
            f"Take an app and an edgeqkv of the same version"
        )
    try:
        # From the text, because JSON has lists and strings where strict Python has tuples and dates.
        return DeviceReport.model_validate_json(json.dumps(content))
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(f"{path} is not a device report: {of_field(first['loc'], first['msg'])}") from error


def identity(bundle: Bundle) -> str:
    """What a report calls the bundle: the SHA-256 of its manifest."""
    return hashlib.sha256((bundle.path / MANIFEST).read_bytes()).hexdigest()


def check_bundle(report: DeviceReport, bundle: Bundle) -> None:
    """See that a report is of this bundle.

    Raises:
        InputError: it is of another bundle, or of a target that this one does not hold.
    """
    own = identity(bundle)
    if report.manifest_sha256 != own:
        raise InputError(
            f"the device report is of another bundle: its {MANIFEST} has the SHA-256 {report.manifest_sha256[:12]}…, "
            f"and that of {bundle.path} has {own[:12]}…. Compare it with the folder that was on the device"
        )
    if report.target not in bundle.targets:
        raise InputError(
            f"the device report is of the target '{report.target}', and {bundle.path} holds {', '.join(bundle.targets)}"
        )


def json_schema() -> str:
    """The schema as a JSON Schema document."""
    return json.dumps(DeviceReport.model_json_schema(), indent=2) + "\n"


if __name__ == "__main__":
    sys.stdout.write(json_schema())
