"""Encoders as Core ML packages: every checkpoint in both forms, images, quantized weights, and what is refused."""

from __future__ import annotations

import atexit
import json
import shutil
import tempfile
from collections import Counter
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from coreml_packages import DATA
from matrix import sampled
from PIL import Image
from typer.testing import CliRunner

import edgeqkv
from edgeqkv import InputError, UnsupportedError, quantize
from edgeqkv.backends.coreml import TARGET, runner
from edgeqkv.backends.coreml.mil import ct
from edgeqkv.backends.coreml.ops import fp16_factors
from edgeqkv.backends.coreml.standalone import examine, read_artifact
from edgeqkv.backends.target import TargetSpec
from edgeqkv.bundle.bundle import Bundle
from edgeqkv.bundle.files import proof_name
from edgeqkv.bundle.manifest import Artifact
from edgeqkv.checkpoints.synthetic_encoders import random_set_model, random_vit
from edgeqkv.cli.app import app
from edgeqkv.mil.evaluator import Evaluator
from edgeqkv.mil.package import Function, Package
from edgeqkv.mil.weight_file import Blob
from edgeqkv.model.model import Model
from edgeqkv.model.variants import Variant
from edgeqkv.model.walk import linears as linears_in
from edgeqkv.pipeline.proof import TOLERANCES, Proof, load_proof, make_proof
from edgeqkv.pipeline.ranges import estimate_ranges
from edgeqkv.pipeline.verify import verify_package
from edgeqkv.progress import silent
from edgeqkv.reference.outputs import encoder_outputs
from edgeqkv.run.session import EncoderSession, open_artifact, open_bundle

NAMES = sorted(path.stem for pattern in ("encoder_*.pt", "vit_*.pt") for path in DATA.glob(pattern))
FORMS = ["linear", "conv"]
Inputs = npt.NDArray[Any]


@dataclass(frozen=True)
class Exported:
    """A package on disk, and the model as it is stored in it."""

    model: Model
    directory: Path
    artifact: Artifact

    def run(self, inputs: Inputs, engine: str = "evaluator") -> npt.NDArray[np.float32]:
        session = open_artifact(self.directory, self.artifact, engine)
        assert isinstance(session, EncoderSession)
        return session.run(inputs)

    @property
    def package(self) -> Path:
        return self.directory / self.artifact.graphs[0].file

    @property
    def function(self) -> Function:
        return Package(self.package).function()


@cache
def export(source: str | Path, form: str = "linear", weights: str = "fp16", batch: int = 1) -> Exported:
    """The package of a checkpoint in tests/data, or of one at a path; the same one at every call."""
    path = source if isinstance(source, Path) else DATA / f"{source}.pt"
    model = quantize.apply(edgeqkv.load(path), quantize.QuantConfig(weights))
    directory = Path(tempfile.mkdtemp(prefix=f"{path.stem}-{form}-"))
    atexit.register(shutil.rmtree, directory)
    return Exported(
        model, directory, TARGET.export(model, directory, TargetSpec(form=form, weights=weights, batch=batch), silent)
    )


def write_vit(path: Path, *, task: str, channels: int = 3, classes: int = 10) -> Path:
    sizes = {"image_size": 12, "patch": 4, "n_embd": 32, "n_layer": 1, "n_head": 2}
    checkpoint = random_vit(Variant.parse("q-k=v"), std=0.2, channels=channels, n_classes=classes, **sizes)
    torch.save({**checkpoint, "task": task}, path)
    return path


def write_set_model(path: Path) -> Path:
    torch.save(random_set_model(Variant.parse("q-k=v"), std=0.1, n_embd=32, n_layer=1, n_head=2), path)
    return path


def golden(name: str) -> tuple[Inputs, npt.NDArray[np.float32]]:
    """Inputs ``[16, …]`` as a package takes them, in fp16 if they are no ids, and the original class's logits."""
    with np.load(DATA / f"{name}.golden.npz") as file:
        inputs, logits = file["input"], file["logits"]
    return (inputs if inputs.dtype.kind == "i" else inputs.astype(np.float16).astype(np.float32)), logits


def close(got: npt.NDArray[np.float32], reference: npt.NDArray[np.float32]) -> bool:
    """Apart by what another order of summation makes of float32; measured: 2e-6 of the scale."""
    return bool(np.abs(got - reference).max() <= 1e-4 * max(1.0, float(np.abs(reference).max())))


# Every checkpoint in one of the forms, images and tokens in both, scaled scores and plain ones too.
CASES = sampled(
    product(NAMES, FORMS),
    lambda name, form: (form, name.startswith("vit")),
    lambda name, form: (form, name.endswith("2d")),
    lambda name, _: name,
)


@pytest.mark.parametrize(("name", "form"), CASES)
def test_a_package_computes_what_the_checkpoint_does(name: str, form: str) -> None:
    exported = export(name, form)
    inputs, original = golden(name)
    exact, rounded = exported.run(inputs), exported.run(inputs, "evaluator-fp16")
    reference = encoder_outputs(exported.model, inputs)
    assert close(exact, reference)
    # Weights rounded to fp16 lie between them and the original. Measured: 1.3e-2, where queries, keys and values are
    # all one projection and the scores are largest; 5e-3 and less where they are three.
    assert np.abs(exact - original).max() <= 2e-2
    # With every result rounded as well. Measured: up to 4e-3 of the scale.
    assert 1e-4 < np.abs(rounded - reference).max() <= TOLERANCES["fp16"] * np.abs(reference).max()
    assert (exact.argmax(-1) == original.argmax(-1)).all()
    assert (rounded.argmax(-1) == original.argmax(-1)).all()


BATCHES = sampled(
    product(["encoder_reverse_q_eq_k_ne_v_2d", "vit_digits_q_ne_k_eq_v"], FORMS),
    lambda *case: case[0],
    lambda *case: case[1],
)


@pytest.mark.parametrize(("name", "form"), BATCHES)
def test_a_batch(name: str, form: str) -> None:
    """16 inputs in batches of 3: the last one is filled up."""
    exported = export(name, form, batch=3)
    inputs, _ = golden(name)
    assert exported.artifact.whole_input.shape == (3, *inputs.shape[1:])
    assert close(exported.run(inputs), encoder_outputs(exported.model, inputs))


@pytest.mark.parametrize("form", FORMS)
def test_a_set_of_vectors(tmp_path: Path, form: str) -> None:
    exported = export(write_set_model(tmp_path / "set.pt"), form, batch=2)
    assert exported.artifact.graphs[0].logits.shape == (2, 10)
    inputs = np.random.default_rng(0).standard_normal((3, 10, 512)).astype(np.float16).astype(np.float32)
    assert close(exported.run(inputs), encoder_outputs(exported.model, inputs))
    with pytest.raises(InputError, match=r"reaches 7e\+04, beyond fp16's largest number 65504"):
        exported.run(np.full((1, 10, 512), 7e4, np.float32))


@pytest.mark.parametrize("form", FORMS)
def test_an_image_that_divides_into_patches(tmp_path: Path, form: str) -> None:
    exported = export(write_vit(tmp_path / "even.pt", task="vision-cifar10"), form, batch=2)
    inputs = np.random.default_rng(0).standard_normal((3, 3, 12, 12)).astype(np.float16).astype(np.float32)
    assert close(exported.run(inputs), encoder_outputs(exported.model, inputs))
    assert not [op for op in exported.function.operations if op.type == "pad"]


# Every pair of a checkpoint, a precision and a form.
QUANTIZED = sampled(
    product(["encoder_reverse_q_eq_k_eq_v_2d", "vit_digits_qvv3"], ["int8", "int4"], FORMS),
    lambda name, weights, _: (name, weights),
    lambda name, _, form: (name, form),
    lambda _, weights, form: (weights, form),
)


@pytest.mark.parametrize(("name", "weights", "form"), QUANTIZED)
def test_quantized_weights_compute_what_their_codes_say(name: str, weights: str, form: str) -> None:
    exported = export(name, form, weights)
    inputs, _ = golden(name)
    got, reference = exported.run(inputs), encoder_outputs(exported.model, inputs)
    assert close(got, reference)
    assert (got.argmax(-1) == reference.argmax(-1)).all()
    kinds = Counter(op.type for op in exported.function.operations)
    # The digits' patches have 9 columns, which no block divides.
    linears = set(linears_in(exported.model.network.blocks))
    assert kinds["constexpr_blockwise_shift_scale"] == len(linears) + 1


FRESH = sampled(
    ((name,) for name in NAMES if name.startswith("encoder_reverse")),
    lambda name: name.endswith("2d"),
    lambda name: "q_eq_k_eq_v" in name,
)


@pytest.mark.parametrize("name", FRESH)
def test_fresh_sequences_are_reversed_in_int8_as_they_were_in_float32(name: str) -> None:
    exported = export(name, "conv", "int8", batch=32)
    sequences = np.random.default_rng(7).integers(0, 10, (64, 16))
    original = encoder_outputs(edgeqkv.load(DATA / f"{name}.pt"), sequences).argmax(-1)
    assert (original == sequences[:, ::-1]).all()
    assert (exported.run(sequences, "evaluator-fp16").argmax(-1) == original).mean() >= 0.995


# How many projections there are, whether queries are keys, and whether keys are values.
SHARED = {
    "encoder_reverse_qkv": (3, False, False),
    "encoder_reverse_q_eq_k_ne_v": (2, True, False),
    "encoder_reverse_q_ne_k_eq_v": (2, False, True),
    "encoder_reverse_qvv3": (2, False, True),
    "encoder_reverse_q_eq_k_eq_v": (1, True, True),
    # Their queries are scaled.
    "encoder_reverse_q_eq_k_eq_v_2d": (1, False, True),
    "vit_digits_q_ne_k_eq_v": (2, False, True),
}


@pytest.mark.parametrize(("name", "form"), [case for case in CASES if case.values[0] in SHARED])
def test_what_is_shared_is_computed_and_stored_once(name: str, form: str) -> None:
    projections, query_is_key, key_is_value = SHARED[name]
    exported = export(name, form)
    package = Package(exported.package)
    assert list(package.functions) == ["main"]
    function = package.function()
    assert not function.states
    kinds = Counter(op.type for op in function.operations)
    layers = exported.model.config.layers
    outside = 1 + name.startswith("vit")
    assert kinds[{"linear": "linear", "conv": "conv"}[form]] == layers * (projections + 3) + outside
    attentions = [op for op in function.operations if op.type == "scaled_dot_product_attention"]
    assert len(attentions) == layers
    for op in attentions:
        assert (op.inputs["query"] == op.inputs["key"]) == query_is_key
        assert (op.inputs["key"] == op.inputs["value"]) == key_is_value
    assert all(len(declared.shape) <= 4 for op in function.operations for declared in op.outputs.values())
    blobs = {op.constant.offset: op.constant for op in function.operations if isinstance(op.constant, Blob)}
    stored = sum(blob.data.nbytes for blob in blobs.values() if blob.dtype.name == "fp16")
    assert stored == exported.model.weight_bytes


def test_a_wrong_number_in_any_weight_is_found(tmp_path: Path) -> None:
    """In each, the sign of its largest number.

    In a table of terms for scores, all signs: one pair's term counts for nothing where attention does not look, and in
    layer 1 of the first model the largest is such a one.
    """
    for name, form in (("encoder_reverse_q_eq_k_eq_v_2d", "linear"), ("vit_digits_q_ne_k_eq_v", "conv")):
        original = export(name, form)
        shutil.copytree(original.directory, tmp_path / name)
        copy = Exported(original.model, tmp_path / name, original.artifact)
        proof = make_proof(copy.model, copy.artifact)
        blobs = {op.name: op.constant for op in copy.function.operations if isinstance(op.constant, Blob)}
        stored = np.memmap(next(copy.package.rglob("weight.bin")), np.uint8, mode="r+")
        assert passes(copy, proof)
        for weight, blob in blobs.items():
            if blob.dtype.name != "fp16":
                continue
            start = int(stored[blob.offset + 16 : blob.offset + 24].view(np.uint64)[0])
            largest = int(np.abs(blob.read()).reshape(-1).argmax())
            wrong = range(blob.data.nbytes // 2) if "pos2d" in weight else [largest]
            signs = [start + 2 * index + 1 for index in wrong]
            stored[signs] ^= 0x80
            stored.flush()
            assert not passes(copy, proof), weight
            stored[signs] ^= 0x80
            stored.flush()
        assert passes(copy, proof)


def passes(exported: Exported, proof: Proof) -> bool:
    session = open_artifact(exported.directory, exported.artifact, "evaluator")
    return proof.compare(session, "evaluator").passed


# What the digits were normalized with is not in their file.
TOLD = {"mean": [0.3], "std": [0.4]}


@cache
def image_bundle(color: bool) -> tuple[Bundle, Model]:
    """Exported and verified, and the model as it is stored.

    In the linear form for RGB images, in the conv form for grey ones, which have to be padded.
    """
    folder = Path(tempfile.mkdtemp(prefix="images-"))
    atexit.register(shutil.rmtree, folder)
    path = write_vit(folder / "vit.pt", task="vision-cifar10") if color else DATA / "vit_digits_q_ne_k_eq_v.pt"
    kind: dict[str, Any] = {"form": "linear"} if color else {"form": "conv", **TOLD}
    model = edgeqkv.load(path)
    return edgeqkv.export(
        model, "coreml", out=folder / "out", weights="fp16", image_input=True, **kind
    ), model.with_weights("fp16")


def edit(exported: Exported, change: Any) -> None:
    """Rewrite the program as ``change`` leaves the specification."""
    file = next(exported.package.rglob("*.mlmodel"))
    spec = ct.proto.Model_pb2.Model()
    spec.ParseFromString(file.read_bytes())
    change(spec)
    file.write_bytes(spec.SerializeToString())


def random_pixels(count: int, artifact: Artifact) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
    """Pixels, and what training made of them."""
    told = artifact.normalization
    assert told is not None
    pixels = np.random.default_rng(0).integers(0, 256, (count, *artifact.whole_input.shape[1:]))
    mean, std = (np.array(values).reshape(1, -1, 1, 1) for values in (told.mean, told.std))
    return pixels.astype(np.uint8), ((pixels / 255 - mean) / std).astype(np.float32)


@pytest.mark.parametrize("color", [True, False])
def test_an_image_as_input(color: bool) -> None:
    bundle, model = image_bundle(color)
    card = bundle.target()
    assert card.verification is not None
    assert card.verification.passed
    channels, size = (3, 12) if color else (1, 8)
    given = Package(next(bundle.path.glob("*.mlpackage"))).function().inputs["image"]
    assert (given.image, given.dtype) == ("RGB" if color else "GRAYSCALE", "fp32")
    assert given.shape == card.artifact.whole_input.shape == (1, channels, size, size)
    assert card.artifact.whole_input.dtype == "uint8"

    pixels, inputs = random_pixels(3, card.artifact)
    reference = encoder_outputs(model, inputs)
    session = open_bundle(bundle)
    assert close(session.run(inputs), reference)
    evaluator = Evaluator(bundle.path / card.artifact.graphs[0].file)
    assert close(np.concatenate([evaluator.run({"image": image[None]})["logits"] for image in pixels]), reference)
    with pytest.raises(InputError, match=r"no image that was normalized.*and those of an image are 0 to 255"):
        session.run(inputs + 4)


def test_a_wrong_normalization_and_wrong_colors_are_found(tmp_path: Path) -> None:
    original, model = image_bundle(True)
    shutil.copytree(original.path, tmp_path / "copy")
    copy = Exported(model, tmp_path / "copy", original.target().artifact)
    proof = load_proof(copy.directory / proof_name("coreml"))
    assert passes(copy, proof)

    def change(value: float) -> Any:
        def scale_green(spec: Any) -> None:
            operations = next(iter(spec.mlProgram.functions["main"].block_specializations.values())).operations
            factors = next(op for op in operations if op.type == "mul").inputs["y"].arguments[0]
            const = next(op for op in operations if op.outputs[0].name == factors.name)
            floats = const.attributes["val"].immediateValue.tensor.floats.values
            floats[1] *= value

        return scale_green

    edit(copy, change(1.01))
    assert not passes(copy, proof)
    edit(copy, change(1 / 1.01))
    assert passes(copy, proof)

    def blue_first(spec: Any) -> None:
        image = spec.description.input[0].type.imageType
        image.colorSpace = image.BGR

    edit(copy, blue_first)
    assert not passes(copy, proof)


@pytest.mark.parametrize("color", [True, False])
def test_core_ml_is_given_a_picture(monkeypatch: pytest.MonkeyPatch, color: bool) -> None:
    """A stand-in for coremltools' MLModel, with its documented signature; no test of Core ML itself."""
    bundle, model = image_bundle(color)

    class MLModel:
        def __init__(self, model: str, compute_units: str, function_name: str | None = None) -> None:
            assert (compute_units, function_name) == ("CPU_AND_GPU" if color else "ALL", None)
            self.evaluator = Evaluator(model, precision="fp16")

        def make_state(self) -> Any:
            return self.evaluator.new_state()

        def predict(self, data: dict[str, Any], state: Any = None) -> dict[str, Any]:
            picture = data["image"]
            assert isinstance(picture, Image.Image)
            assert picture.mode == ("RGB" if color else "L")
            pixels = np.atleast_3d(np.asarray(picture)).transpose(2, 0, 1)[None]
            return self.evaluator.run({"image": pixels}, state)

    units = SimpleNamespace(ALL="ALL", CPU_AND_GPU="CPU_AND_GPU")
    stand_in = SimpleNamespace(models=SimpleNamespace(MLModel=MLModel), ComputeUnit=units)
    monkeypatch.setattr(runner, "import_coremltools", lambda _: stand_in)
    artifact = bundle.target().artifact
    _, inputs = random_pixels(2, artifact)
    session = EncoderSession(artifact, TARGET.open(bundle.path, artifact, "coreml"))
    assert session.precision == "fp16"
    reference = encoder_outputs(model, inputs)
    assert np.abs(session.run(inputs) - reference).max() <= TOLERANCES["fp16"] * np.abs(reference).max()


def test_images_that_no_package_takes(tmp_path: Path) -> None:
    digits = edgeqkv.load(DATA / "vit_digits_qkv.pt")
    out = tmp_path / "out"
    with pytest.raises(UnsupportedError, match="one image a call, not 4: leave out --batch"):
        edgeqkv.export(digits, "coreml", out=out, image_input=True, batch=4, **TOLD)
    with pytest.raises(InputError, match="'vision-digits' were normalized is not known; give --mean and --std"):
        edgeqkv.export(digits, "coreml", out=out, image_input=True)
    tokens = edgeqkv.load(DATA / "encoder_reverse_qkv.pt")
    with pytest.raises(InputError, match="takes tokens, not an image"):
        edgeqkv.export(tokens, "coreml", out=out, image_input=True)
    two = edgeqkv.load(write_vit(tmp_path / "two.pt", task="x", channels=2))
    with pytest.raises(UnsupportedError, match=r"1 or 3 channels, and two\.pt takes 2"):
        edgeqkv.export(two, "coreml", out=out, image_input=True, mean=[0.5, 0.5], std=[0.5, 0.5])
    for model in (digits, tokens):  # asked of the backend itself
        with pytest.raises(InputError, match="normalized is not known, or it takes none"):
            TARGET.export(model, tmp_path, TargetSpec(form="linear", weights="fp16", batch=1, image=True), silent)


def test_what_else_is_refused(tmp_path: Path) -> None:
    model = edgeqkv.load(DATA / "encoder_reverse_q_eq_k_eq_v_2d.pt")
    out = tmp_path / "out"
    with pytest.raises(UnsupportedError, match="fp32"):
        edgeqkv.export(model, "coreml", out=out, weights="fp32")
    with pytest.raises(UnsupportedError, match="linear, conv"):
        edgeqkv.export(model, "coreml", out=out, form="linear-onehot")
    with pytest.raises(UnsupportedError, match="no engine 'ane'"):
        export("encoder_reverse_qkv").run(golden("encoder_reverse_qkv")[0], "ane")

    wide = write_vit(tmp_path / "wide.pt", task="x", classes=16385)
    with pytest.raises(UnsupportedError, match=r"'head\.weight' is 16385.*--form linear"):
        export(wide, "conv")
    assert export(wide, "linear").artifact.graphs[0].logits.shape == (1, 16385)

    loud = torch.load(DATA / "encoder_reverse_q_eq_k_eq_v_2d.pt", weights_only=True)
    loud["model_state_dict"]["blocks.0.attn.pos_w"] += 1e5
    loud["model_state_dict"]["blocks.0.attn.pos2d"] *= 0
    torch.save(loud, tmp_path / "loud.pt")
    with pytest.raises(UnsupportedError, match=r"the 2-D position term scales scores by .*beyond fp16's largest"):
        export(tmp_path / "loud.pt")


def test_two_fp16_numbers_make_up_a_score_scale() -> None:
    random = np.random.default_rng(0)
    scales = np.exp(random.uniform(np.log(1e-4), np.log(6e4), 2000)) * random.choice([-1.0, 1.0], 2000)
    products = np.array([np.prod(np.array(fp16_factors(float(scale)), np.float64)) for scale in scales])
    errors = np.abs(products / scales - 1)
    # Measured: 8e-6 at most, 6e-7 in the middle.
    assert errors.max() < 1e-5
    assert np.median(errors) < 1e-6
    assert fp16_factors(0.0) == [0.0]


def test_a_score_scale_of_one_fp16_number_needs_no_second(tmp_path: Path) -> None:
    """Otherwise two numbers make it up, so that rounding does not bend the scores."""
    checkpoint = torch.load(DATA / "encoder_reverse_q_eq_k_eq_v_2d.pt", weights_only=True)
    weights = checkpoint["model_state_dict"]
    for layer in range(2):
        weights[f"blocks.{layer}.attn.pos_w"] *= 0
        weights[f"blocks.{layer}.attn.pos_w"][0] = 0.75
    torch.save(checkpoint, tmp_path / "even.pt")
    for source, factors in (("encoder_reverse_q_eq_k_eq_v_2d", 2), (tmp_path / "even.pt", 1)):
        kinds = Counter(op.type for op in export(source).function.operations)
        assert kinds["mul"] == 2 * factors


def test_few_tokens_are_warned_of_for_the_neural_engine(tmp_path: Path) -> None:
    told: list[str] = []
    model = edgeqkv.load(DATA / "encoder_reverse_qkv.pt").with_weights("fp16")
    spec = TargetSpec(form="conv", weights="fp16", batch=1)
    artifact = TARGET.export(model, tmp_path, spec, lambda stage, _: told.append(stage))
    (warning,) = artifact.details["warnings"]
    assert "16 tokens, and the Neural Engine pads them to 32: activations take 2.0 ×" in warning
    assert f"warning: {warning}" in told
    assert export("encoder_reverse_qkv", "linear").artifact.details["warnings"] == []


def test_a_package_says_what_it_is() -> None:
    tokens = export("encoder_reverse_q_ne_k_eq_v").package
    facts = Package(tokens).metadata
    assert "q-k=v encoder" in facts["description"]
    assert {key: facts[f"edgeqkv.{key}"] for key in ("kind", "variant", "form", "weights", "batch", "values")} == {
        "kind": "encoder",
        "variant": "q-k=v",
        "form": "linear",
        "weights": "fp16",
        "batch": "1",
        "values": "10",
    }


def test_a_package_alone(tmp_path: Path) -> None:
    """Without its bundle: described from what it says itself, run, and proven against the original."""
    bundle, model = image_bundle(True)
    moved = tmp_path / "renamed.mlpackage"
    shutil.copytree(bundle.path / "model.mlpackage", moved)
    described, exported = read_artifact(moved), bundle.target().artifact
    renamed = tuple(graph.model_copy(update={"file": moved.name}) for graph in exported.graphs)
    assert described.graphs == renamed
    same = {"graphs": exported.graphs, "versions": exported.versions, "details": exported.details}
    assert described.model_copy(update=same) == exported
    (found,) = examine(moved).values()
    assert found["finite"]
    assert found["inputs"] == {"image": "RGB image[1, 3, 12, 12]"}

    original = edgeqkv.load(model.source.path)
    assert verify_package(moved, "coreml", original).passed
    with pytest.raises(InputError, match=r"qkv\.pt is qkv"):
        verify_package(moved, "coreml", edgeqkv.load(DATA / "vit_digits_qkv.pt"))
    with pytest.raises(InputError, match="is a language model"):
        verify_package(moved, "coreml", edgeqkv.load(DATA / "k_eq_v.pt"))


def test_what_fp16_arithmetic_costs() -> None:
    bundle, _ = image_bundle(True)
    proof = load_proof(bundle.path / proof_name("coreml"))
    estimate = estimate_ranges(bundle.path, bundle.target().artifact, proof)
    assert 1e-4 < estimate["max_abs_error"] <= TOLERANCES["fp16"] * estimate["scale"]
    assert estimate["argmax_equal"] == estimate["steps"] == 4
    assert estimate["overflowed"] == []
    assert all(place["headroom"] > 10 for place in estimate["narrowest"])
    ranges = bundle.target().ranges
    assert ranges is not None
    assert ranges.at.startswith("main/")
    assert 0 < ranges.share < 0.1


def test_on_the_command_line(tmp_path: Path) -> None:
    """An image file through a package that takes images, and through one that takes pixels: the same answer."""
    path = DATA / "vit_digits_q_ne_k_eq_v.pt"
    inputs, _ = golden(path.stem)
    grey = np.asarray((inputs[0, 0] - inputs[0].min()) / np.ptp(inputs[0]) * 255, np.uint8)
    Image.fromarray(grey).save(tmp_path / "digit.png")
    told = [text for name, values in TOLD.items() for text in (f"--{name}", str(values[0]))]
    out = tmp_path / "pixels"
    edgeqkv_command("export", path, "--target", "coreml", "--out", out, *told, "--no-verify")
    answers = []
    for bundle in (image_bundle(False)[0].path, out):
        answer = json.loads(edgeqkv_command("run", bundle, "--input", tmp_path / "digit.png", "--json"))
        answers.append(answer["answers"][0]["classes"])
    assert [each["class"] for each in answers[0]] == [each["class"] for each in answers[1]]
    # int8 weights against fp16.
    assert answers[0][0]["probability"] == pytest.approx(answers[1][0]["probability"], abs=1e-2)
    verified = edgeqkv_command("verify", out / "model.mlpackage", "--against", path)
    assert "verified: yes: 4 inputs" in verified


def edgeqkv_command(*arguments: object) -> str:
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == 0, done.output
    return done.stdout
