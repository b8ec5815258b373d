"""What TAB offers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
import yaml

from edgeqkv.backends import TARGETS, backend
from edgeqkv.budget.devices import load_catalogue
from edgeqkv.budget.presets import built_in
from edgeqkv.cli import app as cli
from edgeqkv.model.variants import Variant

COMMANDS = typer.main.get_command(cli.app).commands  # type: ignore[attr-defined]


def offered(command: str, option: str, begun: str, *line: str) -> list[str]:
    """The values that are offered for an option, with the rest of the line before it."""
    made = COMMANDS[command]
    (param,) = (each for each in made.params if each.name == option)
    with made.make_context(command, list(line), resilient_parsing=True) as context:
        return [each.value for each in param.shell_complete(context, begun)]


@pytest.mark.parametrize(
    ("begun", "names"), [("", list(TARGETS)), ("co", ["coreml"]), ("onnx,ex", ["onnx,executorch"])]
)
def test_targets(begun: str, names: list[str]) -> None:
    assert offered("export", "target", begun, "model.pt") == names


def test_devices() -> None:
    assert offered("export", "device", "iphone-15", "model.pt") == ["iphone-15", "iphone-15-pro"]
    assert set(offered("budget", "device", "", "model.pt")) == set(load_catalogue().names)


def test_devices_of_the_users_own(tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    board = load_catalogue().devices["iphone-15"].model_dump(mode="json", by_alias=True, exclude_none=True)
    own.write_text(yaml.safe_dump({"devices": {"my-board": board}}))
    line = ("model.pt", "--devices", str(own))
    assert offered("export", "device", "my", *line) == ["my-board"]
    own.write_text("devices: [")
    assert offered("export", "device", "iph", *line) == []


def test_forms_and_precisions_are_those_of_the_target() -> None:
    assert offered("export", "form", "st", "model.pt", "--target", "executorch") == ["stock", "static"]
    assert offered("export", "form", "", "model.pt", "-t", "onnx") == [form.name for form in backend("onnx").forms]
    assert "lut4" in offered("export", "weights", "", "model.pt")
    assert "lut4" not in offered("export", "weights", "", "model.pt", "-t", "onnx")
    assert offered("export", "state", "", "model.pt", "-t", "coreml") == ["fp16"]


def test_what_is_experimental_says_so() -> None:
    (told,) = (form.purpose for form in backend("ethos-u85").forms if form.name == "int8")
    assert told.startswith("experimental")


def test_recipes() -> None:
    assert offered("export", "recipe", "", "model.pt") == [preset.name for preset in built_in()]


def test_variants_can_be_read_again() -> None:
    names = offered("export", "variant", "", "model.pt")
    assert "q-k=v+gqa4" in names
    for name in names:
        assert str(Variant.parse(name)) == name
    assert offered("convert", "to", "q-k=v+m", "model.pt") == ["q-k=v+mqa"]


def test_engines_are_those_of_the_bundle(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert {"onnxruntime", "executorch"} <= set(offered("generate", "engine", "", "nowhere", "--engine"))

    class Held:
        targets = ("onnx",)

        def __init__(self, path: object, *, check: bool) -> None:
            assert str(path) == "phone"
            assert not check, "a completion reads no large files"

    monkeypatch.setattr("edgeqkv.bundle.bundle.Bundle", Held)
    assert offered("generate", "engine", "", "phone", "--engine") == ["onnxruntime", "exact"]
    assert offered("generate", "target", "", "phone", "--target") == ["onnx"]


def test_what_goes_wrong_offers_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps({"format": 99}))
    assert offered("verify", "target", "", str(tmp_path), "--target") == list(TARGETS)
