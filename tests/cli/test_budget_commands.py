"""The budget on the command line."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import DATA, read_encoder_golden
from device_reports import write_report

import edgeqkv
from edgeqkv import demo
from edgeqkv.budget.device_report import identity
from edgeqkv.bundle.bundle import Bundle
from edgeqkv.cli import app as cli

MODEL = DATA / "k_eq_v_gqa.pt"


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Any:
    """Run the command in this process: exit code, what it printed, what it said of errors and progress."""

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["edgeqkv", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        printed, told = capfd.readouterr()
        return int(ended.value.code or 0), printed, told

    return call


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("budget") / "demo"
    model = edgeqkv.load(demo.checkpoint_path())
    edgeqkv.export(model, "onnx", out=out, tokenizer=demo.tokenizer_path(), verify=False, weights="fp32")
    return out


def test_a_checkpoint_is_planned(run: Any) -> None:
    code, printed, _ = run("budget", MODEL, "--device", "iphone-15", "--device", "pixel-9-pro")
    assert code == 0
    assert "iPhone 15 (iphone-15): fits" in printed
    assert "default app limit: 3.12 GB~: fits; largest context 64~" in printed
    assert "default app limit: 8.00 GB?: fits; largest context 64?" in printed
    assert printed.startswith("It fits on all 2 devices, if what is assumed holds.\niPhone 15: fits (assumed). ")
    assert "decode: No bound: a token reads " in printed
    assert "keeps: layers 0–1: one tensor for keys and values, 4 × 8 numbers a token, every token" in printed


def test_what_does_not_fit_exits_1(run: Any, bundle: Path, tmp_path: Path) -> None:
    page = tmp_path / "out.html"
    code, printed, _ = run("budget", bundle, "-d", "iphone-15", "-d", "hexagon-v75", "--html", page)
    assert code == 1
    assert "hexagon-v75: compute type: FAILS" in printed
    written = page.read_text()
    assert "<!doctype html>" in written
    assert f"edgeqkv budget {bundle} -d iphone-15 -d hexagon-v75 --html {page}" in written
    assert hashlib.sha256((bundle / "manifest.json").read_bytes()).hexdigest() in written


def test_a_page_replaces_an_older_one_and_nothing_else(run: Any, bundle: Path, tmp_path: Path) -> None:
    page, thesis, model = tmp_path / "out.html", tmp_path / "thesis.html", tmp_path / "model.pt"
    thesis.write_text("years of work")
    model.write_bytes(MODEL.read_bytes())
    for _ in range(2):
        assert run("budget", model, "--html", page)[0] == 0
    for place in (thesis, model, bundle / "report.html"):
        code, printed, told = run("budget", bundle if place.parent == bundle else model, "--html", place, "--json")
        assert code == 2
        assert json.loads(printed)["error"]["type"] == "InputError"
        assert str(place) in told
    assert thesis.read_text() == "years of work"
    assert model.read_bytes() == MODEL.read_bytes()
    assert {each.name for each in tmp_path.iterdir()} == {"out.html", "thesis.html", "model.pt"}
    assert not (bundle / "report.html").exists()


def test_an_unknown_device_exits_2_with_the_nearest_names(run: Any) -> None:
    code, printed, told = run("budget", MODEL, "--device", "iphon15")
    assert (code, printed) == (2, "")
    assert "unknown device 'iphon15'; nearest: iphone-15" in told


def test_the_same_as_json(run: Any, bundle: Path) -> None:
    code, printed, _ = run("budget", bundle, "--device", "raspberry-pi-5-8gb", "--json")
    told = json.loads(printed)
    assert code == 0
    assert told["passed"]
    assert told["candidates"][0]["exported"]
    assert told["candidates"][0]["parts"]["tokenizer"] == 600 * 1024


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_bundle_is_measured(run: Any, bundle: Path) -> None:
    code, printed, told = run("budget", bundle, "--measure", "--json")
    assert code == 0
    assert "measuring onnx" in told
    rows = {row["name"]: row for row in json.loads(printed)["measured"]["onnx"]["comparison"]}
    assert abs(rows["peak (prefill)"]["error"]) < 0.1


def test_only_exports_are_measured_and_at_their_context(run: Any, bundle: Path) -> None:
    assert "Export it first" in run("budget", MODEL, "--measure")[2]
    assert "leave out --context" in run("budget", bundle, "--measure", "--context", 8)[2]
    assert "cannot write" in run("budget", MODEL, "--html", bundle)[2]


def test_a_devices_report_stands_beside_the_prediction(run: Any, bundle: Path, tmp_path: Path) -> None:
    file = write_report(tmp_path, manifest_sha256=identity(Bundle(bundle)))
    code, printed, _ = run("budget", bundle, "--compare", file, "--device", "pixel-9-pro")
    assert code == 0
    assert "onnx on Pixel 9 Pro (Android 16): prediction against the device's report" in printed
    assert "decode: 32 tokens, 40.0 tokens/s" in printed
    assert "load\t" in printed
    assert "state\t524 kB\t524 kB\t+0.0%" in printed
    assert "app limit: the system did not say" in printed
    page = tmp_path / "page.html"
    code, printed, _ = run("budget", bundle, "--compare", file, "--json", "--html", page)
    told = json.loads(printed)["on_device"]
    assert code == 0
    assert {row["name"] for row in told["comparison"]} == {"load", "prefill", "decode", "peak", "state"}
    assert told["report"]["device"]["name"] == "Pixel 9 Pro"
    assert "name the device with --device" in told["not_compared"]["decode speed"]
    assert "prediction against the device&#39;s report" in page.read_text()
    assert "Nothing else in this report was run on a phone" in page.read_text()


def test_a_report_that_cannot_be_compared_exits_2(run: Any, bundle: Path, tmp_path: Path) -> None:
    file = write_report(tmp_path, manifest_sha256=identity(Bundle(bundle)))
    for arguments, message in (
        ((bundle, "--compare", write_report(tmp_path / "other")), "of another bundle"),
        ((bundle, "--compare", tmp_path / "none.json"), "cannot read"),
        ((bundle, "--compare", write_report(tmp_path / "next", format=2)), "of format 2"),
        ((bundle, "--compare", file, "--context", 8), "leave out --context"),
        ((MODEL, "--compare", file), "is a checkpoint"),
        ((bundle, "--compare", file, "-d", "pixel-8", "-d", "iphone-15"), "name that one alone"),
        ((bundle, "--compare", file, "-d", "hexagon-v75"), "name that one alone"),
    ):
        code, printed, told = run("budget", *arguments)
        assert (code, printed) == (2, "")
        assert message in told


def test_the_catalogue_is_listed(run: Any) -> None:
    code, printed, told = run("devices")
    assert code == 0
    assert "iphone-15\tphone\tiPhone 15\t6 GB~\t3.12 GB~\tane-a16" in printed
    assert "an assumption" in told
    assert json.loads(run("devices", "--json")[1])["devices"]["iphone-15"]["ram_gb"]["value"] == 6


def test_a_device_is_told_with_its_sources(run: Any) -> None:
    code, printed, _ = run("devices", "iPhone_15")
    assert code == 0
    assert "process limit default: 3.12 GB (community-measured; iPhone 13 Pro, same 6 GB class)" in printed
    assert "https://github.com/a-ghorbani/pocketpal-ai/pull/651" in printed
    assert "weights limit: not known (unknown)" in run("devices", "ane-a16")[1]
    assert json.loads(run("devices", "hexagon-v75", "--json")[1])["name"] == "hexagon-v75"
    assert run("devices", "nonsense")[0] == 2


def test_a_device_report_becomes_a_contribution(run: Any, bundle: Path, tmp_path: Path) -> None:
    file = write_report(tmp_path, manifest_sha256=identity(Bundle(bundle)))
    out = tmp_path / "contribution"
    code, printed, _ = run("contribute", file, "--bundle", bundle, "--out", out)
    assert code == 0
    assert "pixel-9-pro: what was measured" in printed
    assert "Beside the prediction" in (out / "pull-request.md").read_text()
    assert run("contribute", file, "--out", out)[0] == 0  # over its own
    assert run("budget", MODEL, "--devices", out / "entry.yaml", "--device", "pixel-9-pro")[0] == 0
    code, printed, _ = run("contribute", file)
    assert code == 0
    assert printed.startswith("# edgeqkv contribute")
    assert json.loads(run("contribute", file, "--json")[1])["device"] == "pixel-9-pro"
    (out / "entry.yaml").write_text("mine")
    before = (out / "pull-request.md").read_text()
    code, _, told = run("contribute", file, "--device", "pixel-8", "--out", out)
    assert code == 2
    assert "was not written by edgeqkv" in told
    assert (out / "pull-request.md").read_text() == before
    assert run("contribute", file, "--out", file)[0] == 2


def test_recipes_are_listed(run: Any) -> None:
    code, printed, _ = run("recipes")
    assert code == 0
    assert "pixel-9-pro\tonnx portable, int4 weights" in printed
    assert {"name", "target", "why"} <= json.loads(run("recipes", "--json")[1])[0].keys()


def test_export_for_a_device_takes_its_recipe_and_writes_the_report(run: Any, tmp_path: Path) -> None:
    out = tmp_path / "b"
    command = ["export", MODEL, "--device", "pixel-9-pro", "--weights", "fp32", "--no-verify", "--out", out, "--json"]
    code, printed, told = run(*command)
    assert code == 0
    assert "recipe pixel-9-pro: " in told
    manifest = json.loads(printed)
    assert manifest["targets"]["onnx"]["artifact"]["weights"] == "fp32"
    assert {"report.html", "report.json"} <= manifest["files"].keys()
    written = json.loads((out / "report.json").read_text())
    assert written["subject"] == "k_eq_v_gqa.pt"
    assert written["devices"][0]["device"] == "pixel-9-pro"
    assert (
        edgeqkv.budget(out, device="pixel-9-pro").answers[0].candidate.footprint.peak
        == (written["devices"][0]["peak_bytes"])
    )


def test_export_by_recipe(run: Any, tmp_path: Path) -> None:
    command = ["export", MODEL, "--recipe", "android-low-4gb", "--no-verify", "--out", tmp_path / "b", "--json"]
    artifact = json.loads(run(*command)[1])["targets"]["onnx"]["artifact"]
    assert (artifact["chunk"], artifact["state"], artifact["context"]) == (32, "fp16", 64)
    assert run("export", MODEL, "--recipe", "nothing", "--out", tmp_path / "c")[0] == 2
    code, _, told = run("export", MODEL, "--recipe", "pixel-9-pro", "-t", "onnx,coreml", "--out", tmp_path / "c")
    assert code == 2
    assert "a recipe is for one target" in told


def test_an_unknown_device_stops_an_export_before_it_starts(run: Any, tmp_path: Path) -> None:
    command = ["export", MODEL, "--recipe", "pixel-9-pro", "--device", "pixel-99", "--out", tmp_path / "b"]
    code, _, told = run(*command)
    assert code == 2
    assert "unknown device 'pixel-99'" in told
    assert not list(tmp_path.iterdir())


def test_an_encoders_budget(run: Any, tmp_path: Path) -> None:
    path = read_encoder_golden("vit_digits_qkv").path
    bundle = edgeqkv.export(edgeqkv.load(path), "onnx", out=tmp_path / "b", verify=False)
    code, out, _ = run("budget", bundle.path, "--device", "iphone-15")
    assert code == 0
    assert "qkv (this)" in out
    assert "fits" in out
    assert json.loads(run("budget", bundle.path, "--json")[1])["passed"]
    code, out, _ = run("budget", bundle.path, "--device", "hexagon-v75")
    assert code == 1, "what was asked of the NPU alone cannot be"
    assert "cannot run" in out
    for arguments, message in (
        (("budget", bundle.path, "--measure"), "--measure is for language models"),
        (("budget", path), "is an encoder"),
    ):
        code, _, err = run(*arguments)
        assert code == 2
        assert message in err


def test_a_budget_needs_no_torch(tmp_path: Path) -> None:
    """A quantized export is judged, and its variants are planned, where torch is not installed."""
    model = edgeqkv.load(MODEL)
    bundle = edgeqkv.export(model, "onnx", out=tmp_path / "b", weights="int4", devices=["pixel-9-pro"], verify=False)
    check = (
        "import sys; sys.modules['torch'] = None; import edgeqkv; "
        "report = edgeqkv.budget(sys.argv[1], device=['pixel-9-pro', 'hexagon-v75']); "
        "print([row.peak for row in report.answers[0].variants])"
    )
    done = subprocess.run([sys.executable, "-c", check, str(bundle.path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    told = json.loads((bundle.path / "report.json").read_text(encoding="utf-8"))
    assert json.loads(done.stdout) == [row["peak"] for row in told["devices"][0]["variants"]]
