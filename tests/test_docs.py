"""Every command and every Python example in the documentation runs, in order, page by page."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from PIL import Image
from tokenizer_files import write_tokenizer

from edgeqkv import demo
from edgeqkv.demo.corpus import read_reference

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
BLOCK = re.compile(r"^```(console|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def blocks(page: Path) -> list[tuple[str, str]]:
    return BLOCK.findall(page.read_text(encoding="utf-8"))


def check_install(command: str) -> None:
    extra = re.fullmatch(r"pip install 'edgeqkv(?:\[(\w+)\])?'", command)
    assert extra, command
    assert extra[1] is None or extra[1] in PROJECT["optional-dependencies"]


def check_make(command: str) -> None:
    target = command.removeprefix("make ")
    assert re.search(rf"^{re.escape(target)}:", (ROOT / "Makefile").read_text(), re.MULTILINE), command


def run_module(module: str, command: str, folder: Path) -> None:
    command, _, output = command.partition(" > ")
    arguments = shlex.split(command)[1:]
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{command}\n{done.stderr}"
    if output:
        (folder / output).write_text(done.stdout)


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)], ids=lambda page: page.name)
def test_what_a_page_says_works(page: Path, tmp_path: Path) -> None:
    shutil.copyfile(demo.checkpoint_path(), tmp_path / "model.pt")
    shutil.copyfile(demo.teacher_path(), tmp_path / "ordinary.pt")
    shutil.copyfile(demo.tokenizer_path(), tmp_path / "tokenizer.json")
    (tmp_path / "text.txt").write_text(read_reference()[:60000], encoding="utf-8")
    shutil.copyfile(ROOT / "tests/data/checkpoints/vit_digits_q_ne_k_eq_v.pt", tmp_path / "vit.pt")
    Image.linear_gradient("L").resize((8, 8)).save(tmp_path / "digit.png")
    (tmp_path / "heldout.txt").write_text(demo.heldout_path().read_text(encoding="utf-8")[:6000], encoding="utf-8")
    if page.name == "huggingface.md":
        from hugging_face import named  # which skips where transformers is not installed

        named("llama tied, one kv head", tmp_path / "smol", max_position_embeddings=256)
        write_tokenizer(tmp_path / "smol" / "tokenizer.json")
        (tmp_path / "smol" / "chat_template.jinja").write_text("{{ messages[0].content }}")
    for kind, text in blocks(page):
        if kind == "python":
            subprocess.run([sys.executable, "-c", text], cwd=tmp_path, check=True, capture_output=True)
            continue
        for line in text.splitlines():
            assert line.startswith("$ "), f"a console block of {page.name} shows output: {line}"
            command = line.removeprefix("$ ")
            match command.split()[0]:
                case "pip":
                    check_install(command)
                case "make":
                    check_make(command)
                case "edgeqkv":
                    run_module("edgeqkv", command, tmp_path)
                case "optimum-cli":
                    run_module("optimum.commands.optimum_cli", command, tmp_path)
                case other:
                    pytest.fail(f"{page.name} uses '{other}', which no test runs")


def test_links_between_pages_lead_somewhere() -> None:
    for page in PAGES:
        for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / link).exists(), f"{page.name} links to {link}"


def test_the_readme_shows_what_the_demo_prints() -> None:
    """The output between the markers is the demo's own."""
    shown = re.search(r"<!-- demo output -->\n```text\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert shown
    assert demo.DEMO_PROMPT in shown[1]
