"""Presets: tried choices for an export to a kind of device, as YAML files that people can copy and change.

On the command line they are called recipes (``--recipe``, ``export_recipes/``). A file:

    name: pixel-9-pro
    devices: [pixel-9-pro, pixel-10-pro]
    target: onnx
    form: portable
    weights: int4
    state: fp32
    context: 2048      # at most; left out: the model's own
    chunk: 128         # at most; left out: 128
    soc: v79           # the chip to compile for, where the target compiles for chips
    rank: 1            # of several presets for a device, the lowest is tried first; left out: 1
    why: why these choices
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from edgeqkv.backends import backend, soc_of
from edgeqkv.catalogue import nearest, read
from edgeqkv.errors import InputError, UnsupportedError

__all__ = ["Choices", "DevicePreset", "built_in", "for_device", "load_preset"]


class DevicePreset(BaseModel):
    """A preset. What its target cannot do is an error when it is read."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    devices: tuple[str, ...] = ()
    target: str
    form: str
    weights: str
    state: str
    context: int | None = Field(default=None, ge=1)
    chunk: int | None = Field(default=None, ge=1)
    soc: str | None = None
    rank: int = 1
    why: str

    @field_validator("target")
    @classmethod
    def _known_target(cls, target: str) -> str:
        try:
            backend(target)
        except UnsupportedError as error:
            raise ValueError(str(error)) from error
        return target

    @field_validator("soc")
    @classmethod
    def _compiled_for(cls, asked: str | None, info: ValidationInfo) -> str | None:
        if "target" in info.data:
            try:
                soc_of(backend(info.data["target"]), asked)
            except UnsupportedError as error:
                raise ValueError(str(error)) from error
        return asked

    @field_validator("form", "weights", "state")
    @classmethod
    def _offered(cls, asked: str, info: ValidationInfo) -> str:
        if "target" in info.data:  # else that is what is wrong
            offers = backend(info.data["target"])
            known = {
                "form": tuple(form.name for form in offers.forms),
                "weights": tuple(offers.schemes),
                "state": offers.states,
            }
            offered = known[str(info.field_name)]
            if asked not in offered:
                raise ValueError(f"{offers.title} cannot do '{asked}'; it can do {', '.join(offered)}")
        return asked


@dataclass(frozen=True)
class Choices:
    """What the user asked for on the command line; None leaves a choice to the preset."""

    target: str | None = None
    form: str | None = None
    weights: str | None = None
    state: str | None = None
    context: int | None = None
    chunk: int | None = None
    head: str | None = None
    soc: str | None = None

    def over(self, preset: DevicePreset, positions: int) -> Choices:
        """These choices, completed by the preset's.

        What the preset says of another target than the one asked for is not taken over, and its context and chunk
        are upper bounds: a model of fewer ``positions`` gets its own.
        """
        same = self.target in (None, preset.target)
        context = min(preset.context or positions, positions) if self.context is None else self.context
        return Choices(
            target=self.target or preset.target,
            form=self.form or (preset.form if same else None),
            weights=self.weights or (preset.weights if same else None),
            state=self.state or (preset.state if same else None),
            context=context,
            chunk=self.chunk or (min(preset.chunk, context) if preset.chunk else None),
            head=self.head,
            soc=self.soc or (preset.soc if same else None),
        )


def _folder() -> Path:
    """Where the built-in presets lie: in the package where it was installed from a wheel, else in the checkout."""
    here = Path(__file__).parent.parent
    packaged = here / "recipes_data"
    return packaged if packaged.is_dir() else here.parent / "export_recipes"


@cache
def built_in() -> tuple[DevicePreset, ...]:
    """The presets that come with edgeqkv, by name."""
    return tuple(
        sorted((read(path, DevicePreset) for path in _folder().glob("*.yaml")), key=lambda preset: preset.name)
    )


def load_preset(name: str | Path) -> DevicePreset:
    """A preset by its name, by the name of a device that it is for, or from a file.

    Raises:
        InputError: there is none of that name (the message has the nearest), or the file is wrong.
    """
    if str(name).endswith((".yaml", ".yml")):
        return read(Path(name), DevicePreset)
    known = {preset.name: preset for preset in built_in()}
    if str(name) in known:
        return known[str(name)]
    if presets := for_device(str(name)):
        return presets[0]
    raise InputError(f"unknown recipe '{name}'; {nearest(str(name), known)}. 'edgeqkv recipes' lists them")


def for_device(device: str) -> tuple[DevicePreset, ...]:
    """The built-in presets for a device, in the order in which they are to be tried."""
    matching = [preset for preset in built_in() if device in preset.devices]
    return tuple(sorted(matching, key=lambda preset: (preset.rank, preset.name)))
