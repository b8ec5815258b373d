"""What becomes of what a user asks of an export."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from conftest import DATA

import edgeqkv
from edgeqkv import InputError, UnsupportedError, VariantError, demo
from edgeqkv.backends import TARGETS, backend
from edgeqkv.backends.target import TargetSpec, forms_of
from edgeqkv.model.model import Model
from edgeqkv.pipeline.spec import OPTIONS, ExportSpec, kind_of, tokenizer_beside

DECODER, ENCODER, DIGITS = DATA / "k_eq_v_gqa.pt", DATA / "encoder_reverse_qvv3.pt", DATA / "vit_digits_q_ne_k_eq_v.pt"

GIVEN: dict[str, Any] = {
    "targets": ("onnx",),
    "variant": "",
    "form": "",
    "weights": "",
    "state": "",
    "context": 0,
    "allow_longer": False,
    "chunk": 0,
    "batch": 0,
    "head": "",
    "block": 0,
    "tokenizer": Path(),
    "eos": (),
    "calibrate": Path(),
    "tune": 0,
    "resume": False,
    "text": Path(),
    "max_degradation": 0.0,
    "image_input": False,
    "mean": (),
    "std": (),
    "preset": "",
    "soc": "",
    "memory_mode": "",
    "system_config": "",
    "devices": (),
    "own_devices": Path(),
    "allow_fp16_overflow": True,
    "verify": False,
    "out": Path(),
    "overwrite": False,
}
"""Every option as given, with a value that is easily taken for none."""


@pytest.fixture(scope="module")
def decoder() -> Model:
    model = edgeqkv.load(DECODER)
    assert isinstance(model, Model)
    return model


@pytest.fixture(scope="module")
def encoder() -> Model:
    return edgeqkv.load(ENCODER)


@pytest.fixture(scope="module")
def digits() -> Model:
    return edgeqkv.load(DIGITS)


@pytest.fixture(scope="module")
def demo_model() -> Model:
    return edgeqkv.load(demo.checkpoint_path())


def only(model: Model, **asked: Any) -> TargetSpec:
    (spec,) = ExportSpec(**asked).resolve(model).targets.values()
    return spec


# --- which option belongs to which kind of model


def test_every_field_is_an_option_of_the_command_line() -> None:
    fields = {field.name for field in dataclasses.fields(ExportSpec)}
    assert OPTIONS.keys() == fields == GIVEN.keys()
    assert len({option.flag for option in OPTIONS.values()}) == len(OPTIONS)


@pytest.mark.parametrize("name", OPTIONS)
def test_an_option_of_the_other_kind_is_refused_whatever_its_value(name: str, decoder: Model, encoder: Model) -> None:
    for model, one, many in (
        (decoder, "a language model", "encoders"),
        (encoder, "an encoder", "language models"),
    ):
        spec = dataclasses.replace(ExportSpec(), **{name: GIVEN[name]})
        if kind_of(model) in OPTIONS[name].kinds:
            spec._check_belongs(model)
            continue
        message = f"{model.source.path.name} is {one}, and {OPTIONS[name].flag} is for {many}"
        with pytest.raises(InputError, match=message):
            spec.resolve(model)


def test_several_foreign_options_are_named_at_once(encoder: Model) -> None:
    with pytest.raises(InputError, match="--context, --tune, --device are for language models"):
        ExportSpec(tune=0, context=12, devices=("pixel-8",)).resolve(encoder)


# --- defaults


def test_a_decoders_defaults(decoder: Model) -> None:
    resolved = ExportSpec().resolve(decoder)
    assert resolved.targets == {"onnx": TargetSpec("portable", "int4", "fp32", 64, 64)}
    assert (resolved.out, resolved.verify, resolved.overwrite) == (Path("build/k_eq_v_gqa"), True, False)
    assert (resolved.tokenizer, resolved.text, resolved.max_degradation) == (None, None, 0.03)
    assert (resolved.devices, resolved.reasons, resolved.tuning) == ((), (), {"int4": 0})


def test_a_chunk_is_128_at_most(demo_model: Model) -> None:
    assert (only(demo_model).context, only(demo_model).chunk) == (512, 128)
    assert only(demo_model, context=100).chunk == 100


def test_an_encoders_defaults(encoder: Model) -> None:
    resolved = ExportSpec(targets=TARGETS).resolve(encoder)
    assert tuple(resolved.targets) == TARGETS
    for name, spec in resolved.targets.items():
        target = backend(name)
        around = {"memory_mode": target.memory_modes, "system_config": target.system_configs, "soc": target.socs}
        first = {what: next(iter(offered), None) for what, offered in around.items()}
        assert spec == TargetSpec(forms_of(target, causal=False)[0], "int8", **first)
    assert resolved.normalization is None


@pytest.mark.parametrize("name", TARGETS)
def test_the_first_that_a_target_offers_is_its_default(name: str, decoder: Model) -> None:
    target = backend(name)
    spec = only(decoder, targets=(name,))
    assert (spec.form, spec.weights, spec.state) == (
        forms_of(target, causal=True)[0],
        next(iter(target.schemes)),
        target.states[0],
    )


def test_every_target_gets_its_own_defaults_and_what_was_said(decoder: Model) -> None:
    targets = ExportSpec(targets=("coreml", "onnx", "coreml"), weights="fp16", context=32).resolve(decoder).targets
    assert list(targets) == ["coreml", "onnx"]
    assert [(each.form, each.weights, each.state, each.context) for each in targets.values()] == [
        ("linear", "fp16", "fp16", 32),
        ("portable", "fp16", "fp32", 32),
    ]


# --- precedence: option, preset, the device's preset, the target's default


def test_a_preset_before_the_defaults(decoder: Model) -> None:
    resolved = ExportSpec(preset="android-low-4gb").resolve(decoder)
    (spec,) = resolved.targets.values()
    assert (spec.state, spec.chunk, spec.context) == ("fp16", 32, 64)
    assert resolved.reasons[0].startswith("recipe android-low-4gb: ")


def test_options_before_a_preset(decoder: Model) -> None:
    spec = only(decoder, preset="android-low-4gb", state="fp32", weights="int8", chunk=7, context=48, form="static")
    assert (spec.state, spec.weights, spec.chunk, spec.context, spec.form) == ("fp32", "int8", 7, 48, "static")


def test_a_preset_before_a_devices(decoder: Model) -> None:
    resolved = ExportSpec(preset="android-low-4gb", devices=("iphone-15",)).resolve(decoder)
    assert list(resolved.targets) == ["onnx"]
    assert resolved.devices == ("iphone-15",)


def test_a_devices_preset_before_the_defaults(decoder: Model) -> None:
    resolved = ExportSpec(devices=("iPhone_15", "pixel-8")).resolve(decoder)
    assert list(resolved.targets) == ["coreml"]
    assert resolved.devices == ("iphone-15", "pixel-8")
    assert "recipe iphone-15" in resolved.reasons[0]
    assert only(decoder, devices=("iphone-15",), weights="fp16").weights == "fp16"


def test_a_device_that_no_preset_is_for(decoder: Model) -> None:
    resolved = ExportSpec(devices=("google-tensor-tpu",)).resolve(decoder)
    assert resolved.targets == ExportSpec().resolve(decoder).targets
    assert "no recipe is for google-tensor-tpu" in resolved.reasons[0]


def test_each_of_several_targets_takes_the_devices_preset_for_it(decoder: Model) -> None:
    targets = ExportSpec(targets=("onnx", "coreml"), devices=("iphone-15",)).resolve(decoder).targets
    assert targets["coreml"] == only(decoder, devices=("iphone-15",))
    assert targets["onnx"] == only(decoder)


def test_a_presets_names_are_not_for_another_target(decoder: Model) -> None:
    spec = only(decoder, targets=("coreml",), preset="android-low-4gb")
    assert (spec.form, spec.weights, spec.state, spec.chunk) == ("linear", "int4", "fp16", 32)


def test_a_preset_is_for_one_target(decoder: Model) -> None:
    with pytest.raises(InputError, match="a recipe is for one target, and onnx, coreml were asked for"):
        ExportSpec(targets=("onnx", "coreml"), preset="pixel-9-pro").resolve(decoder)


# --- ranges, and options that need another one


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"context": 0}, "a context of 0 is impossible.*choose 1 to 64"),
        ({"context": -1}, "a context of -1 is impossible"),
        ({"context": 65}, "a context of 65 is impossible: the model was trained for 64 positions; choose 1 to 64"),
        ({"chunk": 0}, "a chunk of 0 is impossible; choose 1 or more"),
        ({"chunk": 65}, "a chunk of 65 is impossible with a context of 64; choose 1 to 64"),
        ({"chunk": 9, "context": 8}, "a chunk of 9 is impossible with a context of 8; choose 1 to 8"),
        ({"chunk": 65, "devices": ("pixel-8",)}, "a chunk of 65 is impossible with a context of 64"),
        ({"context": 0, "devices": ("pixel-8",)}, "a context of 0 is impossible"),
        ({"tune": -1}, "-1 steps of tuning are impossible; choose 0 to 1000000"),
        ({"tune": 5}, "tuning needs a text; give one with --calibrate"),
        ({"resume": True}, "--resume takes calibrated weights; give the --calibrate of the export that kept them"),
        ({"max_degradation": 0.05}, "--max-degradation is of the perplexity on a text; give one with --text"),
        ({"max_degradation": -0.05}, "--max-degradation -5 is impossible.*choose 0 or more"),
        ({"max_degradation": float("nan")}, "--max-degradation nan is impossible"),
        ({"text": DECODER}, "measuring the perplexity on .* needs the model's tokenizer; give it with --tokenizer"),
        ({"calibrate": DECODER}, "calibrating on .* needs the model's tokenizer; give it with --tokenizer"),
        ({"text": Path("nowhere.txt")}, r"cannot read nowhere\.txt"),
        ({"calibrate": Path("nowhere.txt")}, r"cannot read nowhere\.txt"),
        ({"tokenizer": Path("nowhere.json")}, r"nowhere\.json: there is no such tokenizer file"),
        ({"tokenizer": demo.tokenizer_path()}, "it belongs to another model"),
        ({"eos": (257,)}, "--eos 257 is no token of the model; its ids are 0 to 256"),
        ({"own_devices": Path("mine.yaml")}, r"mine\.yaml says what devices there are; name one with --device"),
        ({"own_devices": Path("mine.yaml"), "devices": ("pixel-8",)}, r"cannot read mine\.yaml"),
        ({"devices": ("pixel-99",)}, "unknown device 'pixel-99'"),
        ({"preset": "nothing"}, "unknown recipe 'nothing'"),
    ],
)
def test_what_makes_no_sense_for_a_decoder(decoder: Model, asked: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ExportSpec(**asked).resolve(decoder)


@pytest.mark.parametrize("batch", [0, -2, 1025, 10**9, 10**4000, 1.5, "8", True])
def test_a_batch_is_of_one_to_1024(encoder: Model, batch: Any) -> None:
    with pytest.raises(InputError, match=r"a batch of .* is impossible; choose (a whole number, )?1 to 1024"):
        ExportSpec(batch=batch).resolve(encoder)
    assert only(encoder, batch=3).batch == 3


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"mean": (0.5,)}, "std is None; it needs 1 numbers"),
        ({"mean": (0.5, 0.5), "std": (1.0,)}, "it needs 1 numbers, one a channel, and mean and std go together"),
        ({"mean": (), "std": ()}, r"mean is \[\]; it needs 1"),
        (
            {"mean": (0.5,), "std": (0.0,)},
            "std 0 is impossible, as a deviation of pixels of 0 to 1; choose 0.0001 to 10000",
        ),
        ({"image_input": True, "targets": ("coreml",)}, "were normalized is not known; give --mean and"),
    ],
)
def test_how_pixels_were_normalized(digits: Model, asked: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ExportSpec(**asked).resolve(digits)
    resolved = ExportSpec(mean=(0.5,), std=(1.0,), image_input=True, targets=("coreml",)).resolve(digits)
    assert resolved.normalization == ((0.5,), (1.0,))
    assert resolved.targets["coreml"].image


def test_only_images_are_images(encoder: Model) -> None:
    with pytest.raises(InputError, match="takes tokens; only images have a mean"):
        ExportSpec(mean=(0.5,), std=(1.0,)).resolve(encoder)
    with pytest.raises(InputError, match="takes tokens, not an image: leave out --image-input"):
        ExportSpec(image_input=True).resolve(encoder)


def test_another_variant_than_was_claimed(decoder: Model, encoder: Model) -> None:
    for model in (decoder, encoder):
        with pytest.raises(VariantError, match=f"is {model.variant}, not qkv".replace("+", r"\+")):
            ExportSpec(variant="qkv").resolve(model)
        assert ExportSpec(variant=str(model.variant)).resolve(model)


# --- what a target cannot do


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"targets": ()}, "no target was given"),
        ({"targets": ("tflite",)}, "unknown target 'tflite'; edgeqkv exports to onnx"),
        ({"weights": "int3"}, "ONNX cannot do weights 'int3'; it can do int4, int8, fp16, fp32$"),
        ({"targets": ("onnx", "coreml"), "weights": "fp32"}, "Core ML cannot do weights 'fp32'.*--target onnx or exec"),
        ({"targets": ("coreml",), "state": "int8"}, "For state 'int8': --target onnx or executorch"),
        ({"form": "fast"}, "ONNX cannot do form 'fast'"),
        ({"head": "int2"}, "ONNX cannot do weights 'int2'"),
        ({"devices": ("iphone-15",), "weights": "int3"}, "cannot do weights 'int3'"),
        ({"devices": ("iphone-15",), "weights": "fp32"}, "Core ML cannot do weights 'fp32'"),
        ({"devices": ("iphone-15",), "state": "int8"}, "Core ML cannot do state 'int8'"),
        ({"devices": ("pixel-8",), "weights": "lut4"}, "ONNX cannot do weights 'lut4'.*--target coreml"),
        ({"preset": "pixel-9-pro", "form": "linear"}, "ONNX cannot do form 'linear'.*--target coreml"),
    ],
)
def test_a_target_says_what_it_can(decoder: Model, asked: dict[str, Any], message: str) -> None:
    with pytest.raises(UnsupportedError, match=message):
        ExportSpec(**asked).resolve(decoder)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"form": "portable"}, "ONNX cannot do form 'portable'; it can do static"),
        ({"weights": "lut4"}, "ONNX cannot do weights 'lut4'.*--target coreml"),
        ({"head": "lut4"}, "ONNX cannot do weights 'lut4'"),
        ({"image_input": True, "mean": (0.5,), "std": (1.0,)}, "ONNX has no type for images; --image-input is for co"),
    ],
)
def test_a_target_says_what_it_can_of_encoders(digits: Model, asked: dict[str, Any], message: str) -> None:
    with pytest.raises(UnsupportedError, match=message):
        ExportSpec(**asked).resolve(digits)


# --- the tokenizer, and what depends on it


def test_what_the_tokenizer_says_goes_to_the_targets(demo_model: Model) -> None:
    path = demo.tokenizer_path()
    resolved = ExportSpec(tokenizer=path).resolve(demo_model)
    assert resolved.tokenizer is not None
    spec = resolved.targets["onnx"]
    assert (spec.tokenizer, spec.bos_id) == (path, resolved.tokenizer.bos_id)
    assert spec.eos_token_ids == resolved.tokenizer.eos_token_ids != ()
    assert only(demo_model, tokenizer=path, eos=(7, 9)).eos_token_ids == (7, 9)
    assert only(demo_model, tokenizer=path, eos=()).eos_token_ids == ()
    assert only(demo_model, eos=(7,)).eos_token_ids == (7,)
    assert only(demo_model, tokenizer=path, eos=("<|endoftext|>", "7")).eos_token_ids == (0, 7)
    assert (resolved.ends.source, resolved.notes) == ("its name", ())
    (note,) = ExportSpec(tokenizer=path, eos=()).resolve(demo_model).notes
    assert "name no token that ends a text, so that none will; name one with --eos" in note


def test_the_steps_of_tuning(demo_model: Model) -> None:
    calibrated = {"tokenizer": demo.tokenizer_path(), "calibrate": demo.heldout_path()}
    for asked, tuning in (
        ({}, {"int4": 300}),
        ({"tune": 0}, {"int4": 0}),
        ({"tune": 12}, {"int4": 12}),
        ({"weights": "int8"}, {"int8": 0}),
    ):
        assert ExportSpec(**calibrated, **asked).resolve(demo_model).tuning == tuning  # type: ignore[arg-type]
    text = ExportSpec(tokenizer=demo.tokenizer_path(), text=demo.heldout_path(), max_degradation=0.0)
    assert text.resolve(demo_model).max_degradation == 0


def test_a_tokenizer_beside_a_checkpoint_is_a_language_models(demo_model: Model, encoder: Model) -> None:
    assert tokenizer_beside(demo_model) == demo.tokenizer_path()
    source = dataclasses.replace(encoder.source, path=demo.checkpoint_path())
    assert tokenizer_beside(dataclasses.replace(encoder, source=source)) is None
    assert tokenizer_beside(encoder) is None
