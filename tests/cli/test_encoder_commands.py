"""Encoders on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import DATA, read_encoder_golden
from PIL import Image
from sklearn.datasets import load_digits
from test_cli import run

from edgeqkv.checkpoints.synthetic_encoders import random_set_model, write_random_vit
from edgeqkv.errors import InputError
from edgeqkv.model.variants import Variant
from edgeqkv.run.inputs import read_inputs

DIGITS, REVERSE = DATA / "vit_digits_q_ne_k_eq_v.pt", DATA / "encoder_reverse_qvv3.pt"
SMALL_VIT = {"image_size": 12, "channels": 3, "patch": 4, "n_classes": 7, "n_embd": 32, "n_layer": 1, "n_head": 4}


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("cli") / "digits"
    run("export", DIGITS, "--out", out, "--mean", "0.5", "--std", "1", "--variant", "kv")
    return out


def test_inspect() -> None:
    told = run("inspect", DIGITS).stdout
    assert "variant: q-k=v (ViT, vision-digits)" in told
    assert "input: an image of 1 × 8 × 8 pixels, in patches of 3 × 3" in told
    facts = json.loads(run("inspect", REVERSE, "--json").stdout)
    assert facts["variant"] == "qvv3"
    assert facts["config"]["input"] == {"vocab_size": 10, "length": 16, "longest": 24, "kind": "tokens"}


def test_a_digit_is_read_from_an_image(digits: Path, tmp_path: Path) -> None:
    data = load_digits()
    for index in (0, 3):
        pixels = (data.images[index] / 16 * 255).round().astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / "digit.png")
        told = run("run", digits, "--input", tmp_path / "digit.png").stdout
        assert told.splitlines()[1].startswith(f"class {data.target[index]}: ")
    # Larger and wider: the middle counts.
    Image.fromarray(np.pad(pixels, ((0, 0), (4, 4)))).resize((160, 80), Image.Resampling.BICUBIC).save(
        tmp_path / "wide.png"
    )
    answer = json.loads(run("run", digits, "--input", tmp_path / "wide.png", "--json").stdout)["answers"][0]
    assert answer["classes"][0]["class"] == data.target[3]
    assert 0.9 < sum(each["probability"] for each in answer["classes"]) <= 1


def test_a_sequence_is_reversed(tmp_path: Path) -> None:
    run("export", REVERSE, "--target", "onnx", "--weights", "fp32", "--batch", 2, "--out", tmp_path / "reverse")
    sequence = np.arange(16) % 10
    np.save(tmp_path / "one.npy", sequence)
    told = run("run", tmp_path / "reverse", "--input", tmp_path / "one.npy").stdout
    assert "tokens: " + " ".join(map(str, sequence[::-1])) in told
    np.save(tmp_path / "three.npy", np.stack([sequence] * 3))
    answers = json.loads(run("run", tmp_path / "reverse", "--input", tmp_path / "three.npy", "--json").stdout)[
        "answers"
    ]
    assert answers == [{"tokens": sequence[::-1].tolist()}] * 3


def test_the_odd_one_out(tmp_path: Path) -> None:
    torch.save(random_set_model(Variant.parse("q-k=v"), std=0.1, n_embd=32, n_layer=1, n_head=4), tmp_path / "set.pt")
    run("export", tmp_path / "set.pt", "--out", tmp_path / "set")
    np.save(tmp_path / "in.npy", np.random.default_rng(0).normal(size=(10, 512)).astype(np.float32))
    assert "odd one out: member " in run("run", tmp_path / "set", "--input", tmp_path / "in.npy").stdout


def test_verify(digits: Path) -> None:
    assert "verified: yes: 4 inputs" in run("verify", digits).stdout
    assert "verified: yes" in run("verify", digits, "--against", DIGITS).stdout
    assert json.loads(run("verify", digits, "--json").stdout)["targets"]["onnx"]["passed"]
    assert "is a language model" in run("verify", digits, "--against", DATA / "gqa.pt", code=2).stderr


def test_a_file_that_does_not_say_how_many_heads(tmp_path: Path) -> None:
    path = write_random_vit(tmp_path / "vit.pt", "q=k=v", config=False, **SMALL_VIT)
    assert "--heads N" in run("inspect", path, code=2).stderr
    assert "4 heads were told" in run("inspect", path, "--heads", 4).stdout
    run("export", path, "--heads", 4, "--out", tmp_path / "out")
    assert "verified: yes" in run("verify", tmp_path / "out", "--against", path, "--heads", 4).stdout


def test_commands_that_are_for_the_other_kind(digits: Path, tmp_path: Path) -> None:
    for arguments, message in (
        (("export", DIGITS, "--context", 12), "is an encoder, and --context is for language models"),
        (("export", DIGITS, "--context", 0), "is an encoder, and --context is for language models"),
        (
            ("export", DIGITS, "--tune", 0, "--max-degradation", 5, "--devices", "mine.yaml"),
            "is an encoder, and --tune, --max-degradation, --devices are for language models",
        ),
        (("export", DIGITS, "--batch", 0), "a batch of 0 is impossible; choose 1 to 1024"),
        (("export", DATA / "gqa.pt", "--batch", 0), "is a language model, and --batch is for encoders"),
        (("verify", digits, "--text", DIGITS), "holds an encoder, and --text is for language models"),
        (("budget", digits, "--context", 0), "holds an encoder, and --context is for language models"),
        (("generate", digits, "--prompt", "a"), "use 'edgeqkv run'"),
        (("export", DIGITS, "--mean", "half"), "--mean takes numbers with commas between them, not 'half'"),
        (("export", DIGITS, "--variant", "qkv"), "is q-k=v, not qkv"),
    ):
        assert message in run(*arguments, code=2, cwd=tmp_path).stderr
    assert not (tmp_path / "build").exists()


def test_inputs_that_cannot_be_read(tmp_path: Path) -> None:
    image = {"task": "vision-x", "input": {"kind": "image", "size": 8, "channels": 1, "mean": None, "std": None}}
    (tmp_path / "bad.npy").write_bytes(b"no")
    (tmp_path / "bad.png").write_bytes(b"no")
    known = {**image, "input": {**image["input"], "mean": [0.5], "std": [1.0]}}
    many = {**image, "input": {**known["input"], "channels": 4}}
    for name, config, message in (
        ("none.png", image, "there is no such file"),
        ("bad.npy", image, "cannot be read"),
        ("bad.png", image, "how the images of 'vision-x' were normalized is not known"),
        ("bad.png", known, "cannot be read as an image"),
        ("bad.png", many, "the model has 4 channels"),
        ("bad.png", {"task": "t", "input": {"kind": "tokens"}}, r"is no \.npy file, and this model takes tokens"),
    ):
        with pytest.raises(InputError, match=message):
            read_inputs(tmp_path / name, config)


def test_imagenets_pictures_are_enlarged_before_they_are_cut(tmp_path: Path) -> None:
    config = {
        "task": "vision-imagenet",
        "input": {"kind": "image", "size": 224, "channels": 3, "mean": [0.0] * 3, "std": [1.0] * 3},
    }
    picture = np.zeros((256, 256, 3), np.uint8)
    picture[:16] = 255  # what is cut off
    Image.fromarray(picture).save(tmp_path / "p.png")
    assert read_inputs(tmp_path / "p.png", config).max() == 0
    assert read_inputs(tmp_path / "p.png", {**config, "task": "vision-cifar10"}).max() > 0.9


def test_the_golden_inputs_as_a_file(digits: Path, tmp_path: Path) -> None:
    golden = read_encoder_golden("vit_digits_q_ne_k_eq_v")
    np.save(tmp_path / "all.npy", golden.inputs)
    answers = json.loads(run("run", digits, "--input", tmp_path / "all.npy", "--json").stdout)["answers"]
    assert [answer["classes"][0]["class"] for answer in answers] == golden.logits.argmax(-1).tolist()
