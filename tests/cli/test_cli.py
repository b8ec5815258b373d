"""The command line as a user meets it, in processes of its own where that makes a difference."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from commands import Done, run_apart, run_here
from conftest import DATA

import edgeqkv
from edgeqkv import demo
from edgeqkv.checkpoints.synthetic import write_random_checkpoint
from edgeqkv.cli import app as cli

MODEL = DATA / "k_eq_v_gqa.pt"


def run(*arguments: object, code: int = 0, cwd: Path | None = None, apart: bool = False) -> Done:
    done = (run_apart if apart else run_here)(*arguments, cwd=cwd, strict=True)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture(scope="module")
def demo_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("cli") / "demo"
    edgeqkv.export(edgeqkv.load(demo.checkpoint_path()), "onnx", out=out, tokenizer=demo.tokenizer_path())
    return out


def test_inspect_says_what_a_checkpoint_is() -> None:
    told = run("inspect", MODEL, apart=True).stdout
    assert "variant: q-k=v+gqa4 (GPT_Q_GQA)" in told
    assert "75.0% less than qkv" in told
    facts = json.loads(run("inspect", MODEL, "--json").stdout)
    assert facts["variant"] == "q-k=v+gqa4"
    assert facts["state"]["bytes_per_token"] == {"fp32": 256, "fp16": 128}
    assert facts["state"]["reduction_against_qkv"] == 0.75


def test_export_verify_and_open_again(tmp_path: Path) -> None:
    done = run("export", MODEL, "--target", "onnx", "--variant", "qk_v+gqa4", "--chunk", "16", cwd=tmp_path, apart=True)
    assert "- verified: yes: 64 tokens" in done.stdout
    stages = ["checking the weights", "quantizing", "writing model.onnx", "computing the original's logits"]
    told = [line for line in done.stderr.splitlines() if ": took " not in line]  # of stages that are slow here
    assert told == [*stages, "verifying ONNX", "verifying ONNX in onnxruntime"]
    bundle = tmp_path / "build" / "k_eq_v_gqa"
    assert "verified: yes" in run("verify", bundle, apart=True).stdout
    assert "verified: yes" in run("verify", bundle, "--against", MODEL).stdout
    results = json.loads(run("verify", bundle, "--against", MODEL, "--json").stdout)
    assert results["targets"]["onnx"]["passed"]


def test_export_prints_the_manifest_as_json(tmp_path: Path) -> None:
    printed = json.loads(run("export", MODEL, "--out", tmp_path / "b", "--json").stdout)
    assert printed["bundle"] == str(tmp_path / "b")
    assert printed["targets"]["onnx"]["verification"]["passed"]


def test_convert_says_what_it_cost(tmp_path: Path) -> None:
    sizes = {"n_layer": 1, "n_embd": 32, "n_head": 4, "n_positions": 32, "vocab_size": 1024}
    write_random_checkpoint(tmp_path / "model.pt", "qkv", std=0.2, **sizes)
    (tmp_path / "tokenizer.json").write_bytes(demo.tokenizer_path().read_bytes())
    text = demo.heldout_path()
    command = ["convert", "model.pt", "--to", "q-k=v+mqa", "--calibrate", text, "--out", "out.pt", "--windows", 8]
    told = run(*command, "--text", text, cwd=tmp_path).stdout
    assert "variant: qkv → q-k=v+mqa" in told
    assert "KV state: 16 bytes a token in fp16, 87.5% less than 128" in told
    assert "tokens of heldout.txt; the original's 14" in told
    assert "out.pt exists already" in run(*command, code=2, cwd=tmp_path).stderr
    facts = json.loads(run(*command, "--force", "--json", cwd=tmp_path).stdout)
    assert facts["quality"] is None
    assert 0 < facts["lost"][0] < 1
    assert facts["layers"] == [0]
    chosen = run(*command, "--force", "--layers", "x", code=2, cwd=tmp_path).stderr
    assert "'x' names no layers; write them as 0-5,8" in chosen
    chosen = run(*command, "--force", "--state-budget", "8XB", code=2, cwd=tmp_path).stderr
    assert "--state-budget '8XB' is no size; write it as 8MiB" in chosen


def test_a_tokenizer_beside_the_model_is_taken_along(tmp_path: Path) -> None:
    (tmp_path / "model.pt").write_bytes(demo.checkpoint_path().read_bytes())
    (tmp_path / "tokenizer.json").write_bytes(demo.tokenizer_path().read_bytes())
    done = run("export", "model.pt", "--no-verify", "--json", "--eos", "<|endoftext|>", "--eos", 7, cwd=tmp_path)
    assert done.stderr.splitlines()[0] == "tokenizer: tokenizer.json, which lies beside the model"
    card = json.loads(done.stdout)["tokenizer"]
    assert (card["size"], card["source"]) == (1024, "tokenizer.json beside model.pt")
    assert (card["eos_token_ids"], card["eos_source"]) == ([0, 7], "--eos")


def test_a_failed_verification_exits_1(tmp_path: Path) -> None:
    sizes = {"n_layer": 1, "n_embd": 32, "n_head": 4, "n_positions": 16, "vocab_size": 97}
    for seed in (0, 1):
        write_random_checkpoint(tmp_path / f"{seed}.pt", "q-k=v", seed=seed, std=0.2, **sizes)
    run("export", tmp_path / "0.pt", "--out", tmp_path / "b")
    done = run("verify", tmp_path / "b", "--against", tmp_path / "1.pt", code=1)
    assert "does not compute what the original does: onnx: logits differ by" in done.stderr
    results = run("verify", tmp_path / "b", "--against", tmp_path / "1.pt", "--json", code=1).stdout
    assert not json.loads(results)["targets"]["onnx"]["passed"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["inspect", "missing.pt"], "there is no file missing.pt"),
        (["export", MODEL, "--target", "tflite"], "unknown target 'tflite'"),
        (["export", MODEL, "--variant", "qkv"], "is q-k=v+gqa4, not qkv"),
        (["export", MODEL, "--context", "4096"], "a context of 4096 is impossible"),
        (["export", MODEL, "--weights", "int2"], "cannot do weights 'int2'"),
        (["export", MODEL, "--tune", "5"], "tuning needs a text; give one with --calibrate"),
        (["export", MODEL, "--target", "coreml", "--state", "int8"], "For state 'int8': --target onnx or executorch"),
        (["verify", "nowhere"], "there is no folder nowhere"),
        (["generate", "nowhere", "--prompt", "x"], "there is no folder nowhere"),
        (["export", MODEL, "--out", "."], "exists already"),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(arguments: list[object], message: str, tmp_path: Path) -> None:
    done = run(*arguments, code=2, cwd=tmp_path, apart=arguments[0] == "verify")
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not list(tmp_path.iterdir())
    as_json = run(*arguments, "--json", code=2, cwd=tmp_path)
    assert message in json.loads(as_json.stdout)["error"]["message"]


@pytest.mark.parametrize("debug", [False, True])
def test_what_fails_while_it_is_given_up_is_not_told(debug: bool) -> None:
    script = """
import sys
from edgeqkv.cli.app import main

class File:
    def __del__(self):
        raise OSError("File too large")

main(lambda: File() and None)
"""
    command = [sys.executable, "-c", script, "--version", *(["--debug"] if debug else [])]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert ("File too large" in done.stderr) == debug
    assert debug or not done.stderr


def test_debug_shows_the_traceback() -> None:
    command = [sys.executable, "-m", "edgeqkv", "inspect", "missing.pt", "--debug"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "Traceback" in done.stderr


def test_unknown_options_are_wrong_input_too() -> None:
    run("export", MODEL, "--fast", code=2)


def test_generate_streams_the_prompt_and_what_follows(demo_bundle: Path) -> None:
    done = run("generate", demo_bundle, "--prompt", "If the object is", "-n", "20", apart=True)
    assert done.stdout.startswith("If the object is")
    assert "[20 tokens; " in done.stderr
    again = json.loads(run("generate", demo_bundle, "--prompt", "If the object is", "-n", "20", "--json").stdout)
    assert done.stdout == f"If the object is{again['text']}\n"
    assert again["stopped"] == "max_tokens"
    assert len(again["tokens"]) == 20


def test_generate_says_when_the_context_is_full(tmp_path: Path) -> None:
    model = edgeqkv.load(demo.checkpoint_path())
    edgeqkv.export(model, "onnx", out=tmp_path / "b", context=16, verify=False)
    command = ["generate", tmp_path / "b", "-p", "If", "--tokenizer", demo.tokenizer_path()]
    assert "16 of 16 positions: the context is full" in run(*command).stderr
    assert "do not fit" in run(*command[:-3], "x" * 200, *command[-2:], code=2).stderr
    assert "holds no tokenizer; give one with --tokenizer" in run(*command[:-2], code=2).stderr


def test_sampling_depends_on_the_seed_alone(demo_bundle: Path) -> None:
    def text(seed: int) -> str:
        options = ["-n", 30, "--temperature", 1.2, "--top-k", 50, "--top-p", 0.95, "--seed", seed]
        return run("generate", demo_bundle, "--prompt", "The", *options).stdout

    assert text(1) == text(1)
    assert text(1) != text(2)


def test_demo_runs_everything(tmp_path: Path) -> None:
    done = run("demo", "--out", tmp_path / "demo")
    assert "variant: q-k=v+gqa2" in done.stdout
    assert "- verified: yes" in done.stdout
    assert demo.DEMO_PROMPT in done.stdout
    run("demo", "--out", tmp_path / "demo")  # and again over its own bundle
    (tmp_path / "demo" / "notes.txt").write_text("mine")
    assert "holds 'notes.txt', which edgeqkv did not write" in run("demo", "--out", tmp_path / "demo", code=2).stderr
    assert (tmp_path / "demo" / "notes.txt").read_text() == "mine"


def test_demo_replaces_no_bundle_of_another_model(tmp_path: Path) -> None:
    edgeqkv.export(edgeqkv.load(MODEL), "onnx", out=tmp_path / "mine", verify=False)
    before = (tmp_path / "mine" / "manifest.json").read_bytes()
    assert "exists already; give another --out, or --force" in run("demo", "--out", tmp_path / "mine", code=2).stderr
    assert (tmp_path / "mine" / "manifest.json").read_bytes() == before


def test_the_checkpoint_being_exported_is_not_replaced_by_its_bundle(tmp_path: Path) -> None:
    edgeqkv.export(edgeqkv.load(MODEL), "onnx", out=tmp_path / "b", verify=False)
    model = tmp_path / "b" / "model.pt"
    model.write_bytes(MODEL.read_bytes())
    before = sorted(tmp_path.rglob("*"))
    assert "holds 'model.pt'" in run("export", model, "--out", tmp_path / "b", "--force", code=2).stderr
    assert sorted(tmp_path.rglob("*")) == before
    assert model.read_bytes() == MODEL.read_bytes()


def test_the_demo_of_conversion_shows_three_perplexities(tmp_path: Path) -> None:
    done = run("demo", "--convert", "--out", tmp_path / "demo")
    assert "variant: qkv → q-k=v+gqa2" in done.stdout
    perplexities = re.findall(r"perplexity: ([\d.]+) on .*; the original's ([\d.]+)", done.stdout)
    (converted, teacher), (exported, again) = perplexities
    assert float(teacher) < float(converted) == pytest.approx(float(again))
    assert float(exported) == pytest.approx(float(converted), rel=0.01)


def test_doctor_says_what_is_missing_and_how_to_add_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report = json.loads(run("doctor", "--json", apart=True).stdout)
    assert report["telemetry"].startswith("off (ORT_DISABLE_TELEMETRY=1 in every process")
    assert report["backends"]["onnx"]["ready"]
    assert report["backends"]["onnx"]["install"] == "pip install 'edgeqkv[onnx]'"
    assert "ONNX\tready" in run("doctor").stdout


@pytest.mark.parametrize(
    ("missing", "arguments", "command"),
    [
        ("torch", ["inspect", MODEL], "pip install 'edgeqkv[torch]'"),
        ("onnx_ir", ["export", MODEL, "--out", "b"], "pip install 'edgeqkv[onnx]'"),
    ],
)
def test_a_missing_package_answers_with_the_command_that_adds_it(
    missing: str, arguments: list[object], command: str, tmp_path: Path
) -> None:
    script = "import sys; sys.modules[sys.argv.pop(1)] = None\nfrom edgeqkv.cli.app import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", script, missing, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].endswith(command)
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


def test_importing_the_package_and_asking_for_help_is_light() -> None:
    heavy = "{'torch', 'numpy', 'pydantic', 'onnx', 'onnx_ir', 'onnxruntime', 'coremltools', 'executorch'}"
    script = f"import sys, edgeqkv, edgeqkv.cli.app; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


@pytest.mark.parametrize("arguments", [["generate", "--prompt", "The", "-n", "3"], ["verify"]])
def test_running_and_proving_a_bundle_needs_no_torch(demo_bundle: Path, arguments: list[str]) -> None:
    script = "import sys; sys.modules['torch'] = None\nfrom edgeqkv.cli.app import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments, str(demo_bundle)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="opens a pseudo-terminal")
def test_on_a_terminal_there_are_tables(tmp_path: Path) -> None:
    import pty

    parent, child = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "100"}
    command = [sys.executable, "-m", "edgeqkv", "inspect", str(MODEL)]
    subprocess.run(command, stdout=child, env=environment, check=True)
    os.close(child)
    shown = os.read(parent, 65536).decode()
    os.close(parent)
    assert "\x1b[" in shown
    assert "q-k=v+gqa4" in shown


def test_every_command_has_help() -> None:
    for name in (
        "inspect",
        "convert",
        "export",
        "verify",
        "generate",
        "demo",
        "doctor",
        "budget",
        "devices",
        "recipes",
        "run",
        "bench",
        "compare",
        "contribute",
    ):
        assert run(name, "--help").stdout
    assert {command.name or command.callback.__name__ for command in cli.app.registered_commands} == {
        "inspect",
        "convert",
        "export",
        "verify",
        "generate",
        "demo",
        "bench",
        "compare",
        "contribute",
        "doctor",
        "budget",
        "devices",
        "recipes",
        "run",
    }
