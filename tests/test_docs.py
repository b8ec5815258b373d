"""Every command and every Python example in the documentation runs, in order, page by page.

The ten-minute page runs in an environment of its own (tests/first_hour), with the demo's model. The others run with
models as small as can be that take the demo's tokenizer; of them, tests/cli/test_convert_processes.py runs the command
that starts several processes, and compares what it computes.

The README's first command is a process of its own, as it is for a reader. So are examples in Python that bring a
runtime of their own. The rest runs in this process, through the same entry point, which spares it seconds of imports
each; what they in turn start are processes all the same.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import jsonschema
import pytest
from commands import Done, run_apart, run_here
from device_reports import write_report
from pages import ROOT, blocks, check_install, commands, launch
from PIL import Image
from tokenizer_files import write_tokenizer

from edgeqkv import demo
from edgeqkv.bundle.schema import json_schema
from edgeqkv.checkpoints.synthetic import write_random_checkpoint
from edgeqkv.demo.corpus import read_reference
from edgeqkv.extras import installed_version

SOURCES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
PAGES = [page for page in SOURCES if page.name != "start.md" and blocks(page)]
MANIFESTS = jsonschema.Draft202012Validator(json.loads(json_schema()))

SIZES: dict[str, int] = {"n_layer": 1, "n_embd": 64, "n_head": 4, "n_positions": 512, "vocab_size": 1024}


def check_make(command: str) -> None:
    target = command.removeprefix("make ")
    assert re.search(rf"^{re.escape(target)}:", (ROOT / "Makefile").read_text(), re.MULTILINE), command


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the pages' ``model.pt`` and ``ordinary.pt``, of the demo models' kinds."""
    folder = tmp_path_factory.mktemp("models")
    for name, variant in (("model", "q-k=v+gqa2"), ("ordinary", "qkv")):
        write_random_checkpoint(folder / f"{name}.pt", variant, std=0.2, **SIZES)
    return folder


Exported = dict[tuple[str, ...], Path]
"""What ``edgeqkv export`` has written, by its options: pages have the same files, and many begin alike."""


@pytest.fixture(scope="module")
def exported() -> Exported:
    return {}


def options_of(arguments: list[str]) -> tuple[str, ...]:
    """What is exported and how, in whatever order, and not where to."""
    options = re.findall(r"\S+(?: [^-]\S*)?", " ".join(arguments[1:]))
    return tuple(sorted(option for option in options if not option.startswith("--out ")))


def run_edgeqkv(command: str, folder: Path, run: Callable[..., Done], exported: Exported) -> None:
    command, _, output = command.partition(" > ")
    arguments = shlex.split(command)[1:]
    options = options_of(arguments)
    written = folder / arguments[arguments.index("--out") + 1] if arguments[0] == "export" else None
    if written and options in exported:
        shutil.copytree(exported[options], written)
        return
    done = run(*arguments, cwd=folder)
    assert done.returncode == 0, f"{command}\n{done.stderr}"
    if output:
        (folder / output).write_text(done.stdout)
    elif written:
        exported[options] = written


def run_python(text: str, page: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if "onnxruntime" in text:
        subprocess.run([sys.executable, "-c", text], cwd=folder, check=True, capture_output=True)
        return
    with monkeypatch.context() as patch, warnings.catch_warnings(action="ignore"):
        patch.chdir(folder)
        exec(compile(text, page.name, "exec"), {"__name__": "__main__"})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_a_page_says_works(
    page: Path, tmp_path: Path, models: Path, exported: Exported, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(models, tmp_path, dirs_exist_ok=True)
    shutil.copyfile(demo.tokenizer_path(), tmp_path / "tokenizer.json")
    (tmp_path / "text.txt").write_text(read_reference()[:60000], encoding="utf-8")
    shutil.copyfile(ROOT / "tests/data/checkpoints/vit_digits_q_ne_k_eq_v.pt", tmp_path / "vit.pt")
    Image.linear_gradient("L").resize((8, 8)).save(tmp_path / "digit.png")
    (tmp_path / "heldout.txt").write_text(demo.heldout_path().read_text(encoding="utf-8")[:6000], encoding="utf-8")
    write_report(tmp_path)
    if page.name == "huggingface.md":
        from hugging_face import named  # which skips where transformers is not installed

        named("llama tied, one kv head", tmp_path / "smol", max_position_embeddings=256)
        write_tokenizer(tmp_path / "smol" / "tokenizer.json")
        (tmp_path / "smol" / "chat_template.jinja").write_text("{{ messages[0].content }}")
    if page.name == "convert.md":  # whose layers are chosen among
        write_random_checkpoint(tmp_path / "ordinary.pt", "qkv", std=0.2, **{**SIZES, "n_layer": 3})
    if page.name == "ethos-u.md" and not all(map(installed_version, ("ethos-u-vela", "tosa-tools"))):
        pytest.skip("ethos-u-vela and tosa-tools, Arm's compiler and reference model, are not installed")
    run: Callable[..., Done] = run_apart if page.name == "README.md" else run_here
    for kind, text in blocks(page):
        if kind == "python":
            run_python(text, page, tmp_path, monkeypatch)
            continue
        for command in commands(page, text):
            match command.split()[0]:
                case "pip" | "pipx" | "uvx":
                    check_install(command)
                case "make":
                    check_make(command)
                case "edgeqkv":
                    run_edgeqkv(command, tmp_path, run, exported)
                    run = run_here
                case "optimum-cli":
                    done = run_apart(*shlex.split(command)[1:], cwd=tmp_path, module="optimum.commands.optimum_cli")
                    assert done.returncode == 0, f"{command}\n{done.stderr}"
                case "accelerate":
                    assert command == launch()
                case other:
                    pytest.fail(f"{page.name} uses '{other}', which no test runs")
    for manifest in tmp_path.rglob("manifest.json"):  # of all targets and most forms, page by page
        MANIFESTS.validate(json.loads(manifest.read_text(encoding="utf-8")))


def test_links_between_pages_lead_somewhere() -> None:
    for page in SOURCES:
        for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / link).exists(), f"{page.name} links to {link}"


def test_the_readme_shows_what_the_demo_prints() -> None:
    """The output between the markers is the demo's own."""
    shown = re.search(r"<!-- demo output -->\n```text\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert shown
    assert demo.DEMO_PROMPT in shown[1]
