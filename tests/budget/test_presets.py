"""Presets: the built-in ones are possible and known to the catalogue, wrong ones are named with their line."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import DATA
from model_sizes import M300

import edgeqkv
from edgeqkv import demo
from edgeqkv.backends import backend
from edgeqkv.backends.target import TargetSpec
from edgeqkv.budget import presets
from edgeqkv.budget.devices import load_catalogue
from edgeqkv.budget.evaluate import choose
from edgeqkv.budget.npu import constraints
from edgeqkv.budget.plan import ModelShape, Plan
from edgeqkv.budget.presets import Choices, DevicePreset, built_in, for_device, load_preset
from edgeqkv.errors import InputError
from edgeqkv.model.variants import Variant

ROOT = Path(__file__).parent.parent.parent

RECIPE = """name: mine
devices: [pixel-9-pro]
target: onnx
form: portable
weights: fp16
state: fp32
context: 32
chunk: 64
why: a test
"""


@pytest.fixture
def model() -> object:
    return edgeqkv.load(DATA / "k_eq_v_gqa.pt")


def test_every_file_is_a_recipe_of_its_own_name() -> None:
    files = {path.stem for path in (ROOT / "export_recipes").glob("*.yaml")}
    assert {recipe.name for recipe in built_in()} == files
    assert len(files) >= 6


def test_recipes_are_for_devices_of_the_catalogue_and_say_why() -> None:
    names = load_catalogue().names
    for recipe in built_in():
        assert set(recipe.devices) <= set(names), recipe.name
        assert len(recipe.why) > 40, recipe.name


def test_recipes_ask_for_what_their_target_offers() -> None:
    for recipe in built_in():
        offers = backend(recipe.target)
        assert recipe.form in [form.name for form in offers.forms]
        assert recipe.weights in offers.schemes
        assert recipe.state in offers.states


def test_the_main_phones_have_one() -> None:
    for device in ("iphone-15", "pixel-9-pro", "galaxy-s25", "raspberry-pi-5-8gb", "android-low-4gb"):
        assert for_device(device), device


def test_a_recipe_is_found_by_its_name_a_devices_name_or_a_file(tmp_path: Path) -> None:
    assert load_preset("pixel-9-pro").name == "pixel-9-pro"
    assert load_preset("pixel-10-pro").name == "pixel-9-pro"
    (tmp_path / "mine.yaml").write_text(RECIPE)
    assert load_preset(tmp_path / "mine.yaml").name == "mine"
    with pytest.raises(InputError, match="unknown recipe 'pixel-9'; nearest: pixel-9-pro"):
        load_preset("pixel-9")


def test_of_several_recipes_the_lowest_rank_is_first() -> None:
    assert [recipe.name for recipe in for_device("iphone-15")] == ["iphone-15", "iphone-15-gpu"]
    assert [recipe.name for recipe in for_device("pixel-8")] == ["pixel-9-pro", "android-executorch"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("form: portable", "form: conv", "line 4: form: .*ONNX cannot do 'conv'; it can do portable, static"),
        ("weights: fp16", "weights: int2", "line 5: weights: .*ONNX cannot do 'int2'"),
        ("state: fp32", "state: int1", "line 6: state: .*cannot do 'int1'"),
        ("target: onnx", "target: tflite", "line 3: target: .*unknown target 'tflite'"),
        ("context: 32", "context: none", "line 7: context"),
        ("chunk: 64", "chunk: 0", "line 8: chunk"),
        ("chunk: 64", "lunch: 64", "line 8: lunch"),
        ("why: a test", "", "line 1: why: Field required"),
    ],
)
def test_a_wrong_recipe_is_an_error_with_its_line(old: str, new: str, message: str, tmp_path: Path) -> None:
    assert old in RECIPE
    path = tmp_path / "mine.yaml"
    path.write_text(RECIPE.replace(old, new))
    with pytest.raises(InputError, match=message) as raised:
        load_preset(path)
    assert str(path) in str(raised.value)


def recipe() -> DevicePreset:
    choices = {"target": "onnx", "form": "static", "weights": "fp16", "state": "fp16"}
    return DevicePreset(name="r", context=512, chunk=64, why="w", **choices)


def test_options_override_a_recipe() -> None:
    chosen = Choices(weights="fp32", context=256).over(recipe(), positions=2048)
    assert chosen == Choices("onnx", "static", "fp32", "fp16", 256, 64)


def test_a_recipes_sizes_are_upper_bounds() -> None:
    assert Choices().over(recipe(), positions=48) == Choices("onnx", "static", "fp16", "fp16", 48, 48)


def test_another_target_takes_none_of_a_recipes_names() -> None:
    assert Choices(target="coreml").over(recipe(), positions=2048) == Choices("coreml", context=512, chunk=64)


def test_a_device_gets_the_first_of_its_recipes_that_fits(model: edgeqkv.model.model.Model, tmp_path: Path) -> None:
    chosen, why = choose(model, Choices(), device="pixel-9-pro")
    assert (chosen.target, chosen.form, chosen.context) == ("onnx", "portable", 64)
    assert why.startswith("recipe pixel-9-pro: ")
    plain, why = choose(model, Choices(), device="google-tensor-tpu")
    assert plain.target == "onnx"
    assert why == "no recipe is for google-tensor-tpu: the target's defaults"
    small, why = choose(model, Choices(), device="ethos-u85")
    assert (small.target, small.form, small.soc) == ("ethos-u85", "a16w8", "256")
    assert why.startswith("recipe ethos-u85-256: ")
    npu, why = choose(model, Choices(), device="hexagon-v81")
    assert (npu.target, npu.weights, npu.soc) == ("hexagon", "int8", "v81")
    phone, _ = choose(model, Choices(target="hexagon"), device="galaxy-s25")
    assert (phone.target, phone.soc) == ("hexagon", "v79")
    engine, why = choose(model, Choices(), device="ane-a16")
    assert (engine.target, engine.form, engine.state) == ("coreml", "conv", "fp16")
    assert why.startswith("recipe coreml-ane: ")


@pytest.mark.parametrize("engine", ["ane-a16", "ane-a17-pro", "ane-a18", "ane-a19", "ane-m4"])
@pytest.mark.parametrize("size", ["demo", "300M"])
def test_the_neural_engine_s_recipe_meets_what_is_demanded(engine: str, size: str) -> None:
    """Each demand by its name, of the demo model and of the paper's shape of 300 M parameters."""
    recipe = load_preset("coreml-ane")
    if size == "demo":
        shape = ModelShape.of_model(edgeqkv.load(demo.checkpoint_path()))
    else:
        shape = ModelShape.of(M300, Variant.parse("q-k=v"))
    spec = TargetSpec(recipe.form, recipe.weights, recipe.state, context=shape.config.positions, chunk=recipe.chunk)
    found = constraints(engine, load_catalogue().npus[engine], Plan(shape, recipe.target, spec))
    assert {each.name for each in found} >= {"compute type", "static shapes", "largest dimension", "state dimensions"}
    assert [each.name for each in found if not each.holds] == []


def test_a_recipe_names_a_chip_that_its_target_compiles_for(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    text = "name: own\ntarget: hexagon\nform: qdq\nweights: int8\nstate: int8\nsoc: v60\nwhy: none\n"
    path.write_text(text)
    with pytest.raises(InputError, match="cannot compile for 'v60'"):
        load_preset(path)
    path.write_text(text.replace("v60", "v73"))
    assert load_preset(path).soc == "v73"


def test_the_second_recipe_is_taken_where_the_first_does_not_fit(
    model: edgeqkv.model.model.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    choices = {"target": "onnx", "form": "portable", "weights": "fp32", "state": "fp32"}
    large, small = (
        DevicePreset(name=name, devices=("mini",), why=name, context=context, **choices)
        for name, context in (("a-large", 64), ("b-small", 4))
    )
    monkeypatch.setattr(presets, "built_in", lambda: (large, small))
    own = tmp_path / "own.yaml"
    sizes = {context: edgeqkv.budget(model, context=context).candidates[0].footprint.peak for context in (64, 4)}
    limit = (sizes[64] + sizes[4]) / 2 / 10**9
    unknown = "{value: null, status: unknown}"
    own.write_text(
        f"devices: {{mini: {{title: Mini, kind: phone, system: android, soc: x, ram_gb: {{value: 1, status: unknown}}, "
        f"mem_bandwidth_gbs: {unknown}, process_limit_default_gb: {{value: {limit}, status: unknown}}, "
        f"process_limit_max_gb: {unknown}, os_reserved_gb: {unknown}}}}}"
    )
    chosen, why = choose(model, Choices(weights="int4"), device="mini", devices=own)
    assert (chosen.context, why) == (4, "recipe b-small: b-small")
