"""``inspect``, ``compare`` and ``bench``, of bundles and of files that others made."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

import edgeqkv
from edgeqkv.checkpoints.synthetic import write_random_checkpoint
from edgeqkv.cli import app as cli

SIZES = {"n_layer": 1, "n_embd": 32, "n_head": 2, "n_positions": 32, "vocab_size": 64}


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A verified bundle in int8, and an unverified one in fp32."""
    folder = tmp_path_factory.mktemp("bundles")
    model = edgeqkv.load(write_random_checkpoint(folder / "model.pt", "q-k=v+mqa", std=0.2, **SIZES))
    edgeqkv.export(model, "onnx", out=folder / "small", weights="int8", chunk=8)
    edgeqkv.export(model, "onnx", out=folder / "large", weights="fp32", chunk=8, verify=False)
    return folder / "small", folder / "large"


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    def call(*arguments: object, code: int = 0) -> tuple[str, str]:
        monkeypatch.setattr(sys, "argv", ["edgeqkv", *map(str, arguments)])
        with pytest.raises(SystemExit) as raised:
            cli.main()
        out, err = capsys.readouterr()
        assert int(raised.value.code or 0) == code, err
        return out, err

    return call


# --- inspect


def test_inspect_of_a_bundle_says_what_is_in_it_and_what_to_do(bundles: tuple[Path, Path], run: Any) -> None:
    small, large = bundles
    told, _ = run("inspect", small)
    assert "variant: q-k=v+mqa" in told
    assert "onnx: portable, int8 weights, context 32, chunk 8" in told
    assert "- verified: yes: 32 tokens" in told
    assert f"generate: edgeqkv generate {small} --prompt TEXT --tokenizer tokenizer.json" in told
    assert f"prove again: edgeqkv verify {large} --against MODEL" in run("inspect", large)[0]
    facts = json.loads(run("inspect", small, "--json")[0])
    assert facts["targets"]["onnx"]["artifact"]["weights"] == "int8"
    assert facts["commands"]["speed here"] == f"edgeqkv bench {small}"


def test_inspect_of_a_damaged_bundle_is_an_error(bundles: tuple[Path, Path], run: Any, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("{")
    assert "is damaged" in run("inspect", tmp_path, code=2)[1]
    (tmp_path / "manifest.json").write_bytes((bundles[0] / "manifest.json").read_bytes())
    assert "error: " in run("inspect", tmp_path, code=2)[1]


def test_inspect_of_an_exported_file(bundles: tuple[Path, Path], run: Any) -> None:
    file = bundles[0] / "model.onnx"
    facts = json.loads(run("inspect", file, "--json")[0])
    beside = sum(each.stat().st_size for each in bundles[0].glob("model.onnx*"))
    assert facts["bytes"] == beside
    (graph,) = facts["functions"]
    assert graph["operators"]["MatMulNBits"] >= 5
    assert graph["outputs"]["logits"] == "float[1, 64]"


def test_inspect_of_anybodys_onnx(run: Any, tmp_path: Path) -> None:
    nodes = [helper.make_node("Add", ["x", "w"], ["s"]), helper.make_node("Relu", ["s"], ["y"])]
    weight = helper.make_tensor("w", TensorProto.INT4, [3], [1, 2, 3])
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "theirs", [x], [y], [weight])
    model = helper.make_model(graph, producer_name="somebody", producer_version="2")
    helper.set_model_props(model, {"license": "MIT"})
    onnx.save(model, tmp_path / "theirs.onnx")
    told, _ = run("inspect", tmp_path / "theirs.onnx")
    assert "made by: somebody 2" in told
    assert "- takes: x float[batch, 3]" in told
    assert "- operators: Add 1, Relu 1" in told
    assert "constants: 2 B in int4" in told
    assert "license: MIT" in told


def test_weights_that_lie_elsewhere_are_missed_and_not_followed(run: Any, tmp_path: Path) -> None:
    weight = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    weight.external_data.add(key="location", value="../../etc/passwd")
    node = helper.make_node("Identity", ["w"], ["y"])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    onnx.save(helper.make_model(helper.make_graph([node], "g", [], [y], [weight])), tmp_path / "m.onnx")
    assert "note: its weights lie in '../../etc/passwd', which is not there" in run("inspect", tmp_path / "m.onnx")[0]


@pytest.mark.parametrize("name", ["m.onnx", "m.pte", "m.mlpackage"])
def test_what_is_no_model_is_an_error(name: str, run: Any, tmp_path: Path) -> None:
    assert "error: " in run("inspect", tmp_path / name, code=2)[1]
    if name == "m.mlpackage":
        (tmp_path / name).mkdir()
    else:
        (tmp_path / name).write_bytes(b"nothing of the kind")
    for options in ([], ["--json"]):
        out, err = run("inspect", tmp_path / name, *options, code=2)
        assert err.count("\n") == 1
        assert not out or json.loads(out)["error"]


def test_options_of_checkpoints_are_refused_of_exports(bundles: tuple[Path, Path], run: Any) -> None:
    assert "--heads and --ema are for checkpoints" in run("inspect", bundles[0], "--ema", code=2)[1]


# --- compare


def test_compare_puts_bundles_side_by_side(bundles: tuple[Path, Path], run: Any) -> None:
    out, err = run("compare", *bundles, "-d", "pixel-9-pro")
    rows = {line.split("\t")[0]: line.split("\t")[1:] for line in out.splitlines()}
    assert rows[""] == ["small", "large"]
    assert rows["weights"] == ["int8", "fp32"]
    assert rows["verified"][0].startswith("yes")
    assert rows["verified"][1] == "no"
    assert rows["Pixel 9 Pro"] == ["fits in 8.00 GB"] * 2
    assert "--bench" in err
    small, large = json.loads(run("compare", *bundles, "--json")[0])["bundles"]
    assert small["file_bytes"] < large["file_bytes"]
    assert small["state_bytes"] == large["state_bytes"]
    assert small["speed"] is None


def test_compare_writes_a_page_and_nothing_over_what_is_not_one(
    bundles: tuple[Path, Path], run: Any, tmp_path: Path
) -> None:
    page = tmp_path / "c.html"
    run("compare", *bundles, "--html", page)
    run("compare", *bundles, "--html", page)  # over its own
    written = page.read_text()
    assert written.count("<tr>") == len(run("compare", *bundles)[0].splitlines())
    assert 'class="best"' in written
    assert "http" not in written, "it needs nothing else"
    page.write_text("mine")
    assert "error: " in run("compare", *bundles, "--html", page, code=2)[1]
    assert page.read_text() == "mine"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["SMALL"], "there is nothing to compare it with"),
        (["SMALL", "SMALL"], "is named twice"),
        (["SMALL", "nowhere"], "there is no folder nowhere"),
        (["SMALL", "LARGE", "-d", "nokia"], "unknown device 'nokia'"),
    ],
)
def test_what_cannot_be_compared(arguments: list[str], message: str, bundles: tuple[Path, Path], run: Any) -> None:
    named = {"SMALL": bundles[0], "LARGE": bundles[1]}
    assert message in run("compare", *(named.get(each, each) for each in arguments), code=2)[1]


# --- bench


QUICK = ("--prompt", 8, "--generate", 2, "--repeats", 2, "--rounds", 1, "--warmup", 0, "--threads", 1)


def test_bench_measures_bundles_in_turn(bundles: tuple[Path, Path], run: Any) -> None:
    out, _ = run("bench", *bundles, *QUICK, "--fill", 4, "--fill", 20, "--json")
    small, large = json.loads(out)["results"]
    assert (small["weights"], large["weights"]) == ("int8", "fp32")
    for each in (small, large):
        assert [at["fill"] for at in each["decode"]] == [4, 20]
        assert [len(at["milliseconds"]["samples"]) for at in each["decode"]] == [4, 4]
        assert 0 < each["decode"][0]["milliseconds"]["p50"] <= each["decode"][0]["milliseconds"]["p95"]
        assert each["decode"][0]["bytes"] < each["decode"][1]["bytes"]
        assert each["prompt_per_second"] > 0
        assert each["load_seconds"]["p50"] > 0
        assert each["threads"] == 1
        assert each["peak_bytes"] > each["imported_bytes"] > 0 or sys.platform != "linux"
    # Every weight is read for a token, but for the tables, of which it is a row.
    assert small["decode"][0]["bytes"] < large["decode"][0]["bytes"]


def test_bench_prints_a_table_for_people(bundles: tuple[Path, Path], run: Any) -> None:
    out, err = run("bench", bundles[0], *QUICK, "--markdown")
    lines = out.splitlines()
    assert lines[:2] == ["|  | small |", "| --- | --- |"]
    assert any(line.startswith("| a token after 16 |") for line in lines)
    assert "medians / 95th percentiles" in err
    assert "1 thread," in err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--fill", "31"], "31 tokens and 2 more do not fit into the context of 32"),
        (["--fill", "0"], "a fill of 0 is impossible"),
        (["--threads", "0"], "0 threads are impossible; choose 1 to 1024"),
        (["--rounds", "0"], "rounds 0 is impossible"),
        (["--markdown", "--json"], "give one of them"),
        (["--engine", "tpu"], "no engine 'tpu'; it has onnxruntime, exact"),
    ],
)
def test_what_cannot_be_measured(options: list[str], message: str, bundles: tuple[Path, Path], run: Any) -> None:
    out, err = run("bench", bundles[0], *QUICK[:4], *options, code=2)
    assert message in err
    assert not out or json.loads(out)["error"]
