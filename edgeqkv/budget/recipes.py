"""Recipes: tried choices for an export to a kind of device, as YAML files that people can copy and change.

A recipe file:

    name: pixel-9-pro
    devices: [pixel-9-pro, pixel-10-pro]
    target: onnx
    form: portable
    weights: int4
    state: fp32
    context: 2048      # at most; left out: the model's own
    chunk: 128         # at most; left out: 128
    rank: 1            # of several recipes for a device, the lowest is tried first; left out: 1
    why: why these choices
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from edgeqkv.backends import backend
from edgeqkv.catalogue import nearest, read
from edgeqkv.errors import InputError, UnsupportedError

__all__ = ["Choices", "Recipe", "built_in", "for_device", "load_recipe"]


class Recipe(BaseModel):
    """A recipe. What its target cannot do is an error when it is read."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    devices: tuple[str, ...] = ()
    target: str
    form: str
    weights: str
    state: str
    context: int | None = Field(default=None, ge=1)
    chunk: int | None = Field(default=None, ge=1)
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

    @field_validator("form", "weights", "state")
    @classmethod
    def _offered(cls, asked: str, info: ValidationInfo) -> str:
        if "target" in info.data:  # else that is what is wrong
            offers = backend(info.data["target"])
            known = {"form": tuple(offers.forms), "weights": offers.weights, "state": offers.states}
            offered = known[str(info.field_name)]
            if asked not in offered:
                raise ValueError(f"{offers.title} cannot do '{asked}'; it can do {', '.join(offered)}")
        return asked


@dataclass(frozen=True)
class Choices:
    """What the user asked for on the command line; None leaves a choice to the recipe."""

    target: str | None = None
    form: str | None = None
    weights: str | None = None
    state: str | None = None
    context: int | None = None
    chunk: int | None = None

    def over(self, recipe: Recipe, positions: int) -> Choices:
        """These choices, completed by the recipe's.

        What the recipe says of another target than the one asked for is not taken over, and its context and chunk
        are upper bounds: a model of fewer ``positions`` gets its own.
        """
        same = self.target in (None, recipe.target)
        context = self.context or min(recipe.context or positions, positions)
        return Choices(
            target=self.target or recipe.target,
            form=self.form or (recipe.form if same else None),
            weights=self.weights or (recipe.weights if same else None),
            state=self.state or (recipe.state if same else None),
            context=context,
            chunk=self.chunk or (min(recipe.chunk, context) if recipe.chunk else None),
        )


def _folder() -> Path:
    """Where the built-in recipes lie: in the package where it was installed from a wheel, else in the checkout."""
    here = Path(__file__).parent.parent
    packaged = here / "recipes_data"
    return packaged if packaged.is_dir() else here.parent / "export_recipes"


@cache
def built_in() -> tuple[Recipe, ...]:
    """The recipes that come with edgeqkv, by name."""
    return tuple(sorted((read(path, Recipe) for path in _folder().glob("*.yaml")), key=lambda recipe: recipe.name))


def load_recipe(name: str | Path) -> Recipe:
    """A recipe by its name, by the name of a device that it is for, or from a file.

    Raises:
        InputError: there is none of that name (the message has the nearest), or the file is wrong.
    """
    if str(name).endswith((".yaml", ".yml")):
        return read(Path(name), Recipe)
    known = {recipe.name: recipe for recipe in built_in()}
    if str(name) in known:
        return known[str(name)]
    if recipes := for_device(str(name)):
        return recipes[0]
    raise InputError(f"unknown recipe '{name}'; {nearest(str(name), known)}. 'edgeqkv recipes' lists them")


def for_device(device: str) -> tuple[Recipe, ...]:
    """The built-in recipes for a device, in the order in which they are to be tried."""
    matching = [recipe for recipe in built_in() if device in recipe.devices]
    return tuple(sorted(matching, key=lambda recipe: (recipe.rank, recipe.name)))
