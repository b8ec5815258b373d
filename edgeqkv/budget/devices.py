"""The catalogue of devices: what they have and let an app use, every number with how it is known and from where."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Annotated, Final, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from edgeqkv.catalogue import nearest, read
from edgeqkv.errors import InputError

__all__ = ["CATALOGUE", "STATUSES", "Catalogue", "Device", "Fact", "MeasuredRun", "Npu", "Status", "load_catalogue"]

CATALOGUE: Final = Path(__file__).with_name("devices.yaml")

Status = Literal["vendor-documented", "community-measured", "unknown"]
STATUSES: Final[tuple[Status, ...]] = ("vendor-documented", "community-measured", "unknown")
"""From the best known to the worst."""

Value = TypeVar("Value")

Gigabytes = Annotated[float, Field(ge=1e-3, le=1e6, allow_inf_nan=False)]
"""A size in GB, or a bandwidth in GB/s."""

Megabytes = Annotated[float, Field(ge=1e-3, le=1e6, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1, le=2**31)]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Fact(_Record, Generic[Value]):
    """A value and how it is known; ``unknown`` says that it is an assumption, None that nobody has published it."""

    value: Value
    status: Status
    sources: tuple[str, ...] = ()
    note: str = ""


class MeasuredRun(_Record):
    """One run of the sample apps on a device: what a ``device-report.json`` said, and what was predicted for it.

    Memory is the most above what the app took before it opened the model, in MB of 10^6 bytes.
    """

    date: str
    target: str
    runtime: str
    tokens: Count
    memory_mb: Annotated[float, Field(allow_inf_nan=False)] | None = None
    predicted_mb: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    decode_tokens_per_second: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    source: str


class Device(_Record):
    """A phone, tablet, board or wearable. Sizes are in GB of 10^9 bytes, bandwidths in GB/s.

    ``process_limit_default_gb`` is what an app may use without asking for more, ``process_limit_max_gb`` with the
    system's permission (iOS: the increased-memory-limit entitlement). ``npu`` names an entry of the catalogue.
    ``measurements`` are runs of edgeqkv's own exports there.
    """

    title: str
    kind: Literal["phone", "tablet", "board", "wearable"]
    system: Literal["ios", "android", "linux"]
    soc: str
    npu: str | None = None
    ram_gb: Fact[Gigabytes]
    mem_bandwidth_gbs: Fact[Gigabytes | None]
    process_limit_default_gb: Fact[Gigabytes | None]
    process_limit_max_gb: Fact[Gigabytes | None]
    os_reserved_gb: Fact[Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)] | None]
    measurements: tuple[MeasuredRun, ...] = ()


class Npu(_Record):
    """A neural processor: what it can compute with and hold. What is not listed is not known."""

    title: str
    soc: str | None = None
    note: str = ""
    toolchain: Fact[str] | None = None
    compute_dtypes: Fact[tuple[str, ...] | None]
    max_dim: Fact[dict[str, Count] | None] | None = None
    max_tensor_dim: Fact[Count | None] | None = None
    static_shapes_only: Fact[bool] | None = None
    weights_limit_gb: Fact[Gigabytes | None] | None = None
    per_session_limit_gb: Fact[Gigabytes | None] | None = None
    sessions_per_process: Fact[Count] | None = None
    vtcm_mb: Fact[Megabytes] | None = None
    sram_mb: Fact[Megabytes | None] | None = None
    state_dtype: Fact[str] | None = None
    stateful_min_os: Fact[str] | None = None
    fallback: Fact[str] | None = None
    transformers: Fact[str] | None = None
    float_: Fact[bool] | None = Field(default=None, alias="float")
    int8_int8_faster: Fact[bool] | None = None
    context_binary_arch_locked: Fact[bool] | None = None


class Catalogue(_Record):
    """All devices and NPUs, by name; ``platform`` holds what is known of whole systems."""

    generated: str = ""
    platform: dict[str, dict[str, Fact[str | bool | float]]] = Field(default_factory=dict)
    devices: dict[str, Device] = Field(default_factory=dict)
    npus: dict[str, Npu] = Field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        return (*self.devices, *self.npus)

    def find(self, name: str) -> Device | Npu:
        """The entry of that name; case and underscores do not matter.

        Raises:
            InputError: there is none; the message has the nearest names.
        """
        key = name.lower().replace("_", "-").replace(" ", "-")
        found = self.devices.get(key) or self.npus.get(key)
        if found is None:
            raise InputError(f"unknown device '{name}'; {nearest(name, self.names)}. 'edgeqkv devices' lists them")
        return found

    def canonical(self, name: str) -> str:
        """The catalogue's spelling of a name; `find` says whether there is one."""
        self.find(name)
        return name.lower().replace("_", "-").replace(" ", "-")


def load_catalogue(own: Path | None = None) -> Catalogue:
    """The built-in catalogue, with a file of the user's own laid over it.

    Raises:
        InputError: the file is wrong (the message names the line), or a device names an NPU that is nowhere.
    """
    built_in = _built_in()
    if own is None:
        return built_in
    given = read(own, Catalogue)
    merged = built_in.model_copy(
        update={"devices": {**built_in.devices, **given.devices}, "npus": {**built_in.npus, **given.npus}}
    )
    for name, device in given.devices.items():
        if device.npu is not None and device.npu not in merged.npus:
            raise InputError(f"{own}: device '{name}' names the NPU '{device.npu}'; {nearest(device.npu, merged.npus)}")
    return merged


@cache
def _built_in() -> Catalogue:
    return read(CATALOGUE, Catalogue)
