"""Every command and every Python example in the documentation runs, in order, page by page.

The ten-minute page runs in an environment of its own (tests/first_hour).

The first command of a page is a process of its own, as it is for a reader. So are examples in Python of the README, and
those that bring a runtime of their own. The rest runs in this process, through the same entry point, which spares it
seconds of imports each; what they in turn start are processes all the same.
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
from device_reports import write_report
from pages import ROOT, blocks, check_install, commands
from PIL import Image
from tokenizer_files import write_tokenizer

from edgeqkv import demo
from edgeqkv.bundle.schema import json_schema
from edgeqkv.cli import app as cli
from edgeqkv.demo.corpus import read_reference

SOURCES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
PAGES = [page for page in SOURCES if page.name != "start.md" and blocks(page)]
MANIFESTS = jsonschema.Draft202012Validator(json.loads(json_schema()))


def check_make(command: str) -> None:
    target = command.removeprefix("make ")
    assert re.search(rf"^{re.escape(target)}:", (ROOT / "Makefile").read_text(), re.MULTILINE), command


Run = Callable[[list[str], Path], tuple[int, str, str]]
"""Runs ``edgeqkv`` with arguments in a folder: exit code, what it printed, and what it said of errors and progress."""


def run_apart(arguments: list[str], folder: Path, module: str = "edgeqkv") -> tuple[int, str, str]:
    """In a process of its own."""
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def run_here(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """In this process."""

    def run(arguments: list[str], folder: Path) -> tuple[int, str, str]:
        capfd.readouterr()
        with monkeypatch.context() as patch, warnings.catch_warnings(action="ignore"):
            patch.chdir(folder)
            patch.setattr(sys, "argv", ["edgeqkv", *arguments])
            with pytest.raises(SystemExit) as ended:
                cli.main()
        return int(ended.value.code or 0), *capfd.readouterr()

    return run


Exported = dict[tuple[str, ...], Path]
"""What ``edgeqkv export`` has written, by its options: pages have the same files, and many begin alike."""


@pytest.fixture(scope="module")
def exported() -> Exported:
    return {}


def options_of(arguments: list[str]) -> tuple[str, ...]:
    """What is exported and how, in whatever order, and not where to."""
    options = re.findall(r"\S+(?: [^-]\S*)?", " ".join(arguments[1:]))
    return tuple(sorted(option for option in options if not option.startswith("--out ")))


def run_edgeqkv(command: str, folder: Path, run: Run, exported: Exported) -> None:
    command, _, output = command.partition(" > ")
    arguments = shlex.split(command)[1:]
    options = options_of(arguments)
    written = folder / arguments[arguments.index("--out") + 1] if arguments[0] == "export" else None
    if written and options in exported:
        shutil.copytree(exported[options], written)
        return
    code, printed, said = run(arguments, folder)
    assert code == 0, f"{command}\n{said}"
    if output:
        (folder / output).write_text(printed)
    elif written:
        exported[options] = written


def run_python(text: str, page: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if page.name == "README.md" or "onnxruntime" in text:
        subprocess.run([sys.executable, "-c", text], cwd=folder, check=True, capture_output=True)
        return
    with monkeypatch.context() as patch, warnings.catch_warnings(action="ignore"):
        patch.chdir(folder)
        exec(compile(text, page.name, "exec"), {"__name__": "__main__"})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_a_page_says_works(
    page: Path, tmp_path: Path, run_here: Run, exported: Exported, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copyfile(demo.checkpoint_path(), tmp_path / "model.pt")
    shutil.copyfile(demo.teacher_path(), tmp_path / "ordinary.pt")
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
    run = run_apart
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
                    code, _, said = run_apart(shlex.split(command)[1:], tmp_path, "optimum.commands.optimum_cli")
                    assert code == 0, f"{command}\n{said}"
                case "accelerate":
                    pytest.importorskip("accelerate")
                    code, _, said = run_apart(shlex.split(command)[1:], tmp_path, "accelerate.commands.accelerate_cli")
                    assert code == 0, f"{command}\n{said}"
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
