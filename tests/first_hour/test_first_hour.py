"""A new user's first hour: the wheel in an environment of its own, and the ten-minute page, word for word.

Here that environment borrows the packages of the tests' own; ``make first-hour`` downloads them as a user does.
"""

from __future__ import annotations

import json
import re
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
from fresh_environment import ROOT, Distributions, build, environment, install, run
from pages import blocks, check_install, commands

PAGE = ROOT / "docs" / "start.md"
TARGETS = ("onnx", "executorch", "coreml")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Distributions:
    pytest.importorskip("hatchling")
    return build(tmp_path_factory.mktemp("dist"))


@pytest.fixture(scope="module")
def installed(built: Distributions, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install(built.wheel, tmp_path_factory.mktemp("home") / "env")


def version(path: Path) -> str:
    return path.name.removesuffix(".tar.gz").split("-")[1]


def test_the_wheel_of_the_source_distribution_is_of_its_version(built: Distributions) -> None:
    """It is built where there is no git. A copy that never had any has the version to fall back to."""
    assert version(built.sdist) == version(built.wheel)
    if (ROOT / ".git").exists():
        assert not version(built.wheel).endswith(".dev0")


def test_the_wheel_holds_the_package_and_what_it_reads(built: Distributions) -> None:
    with zipfile.ZipFile(built.wheel) as wheel:
        names = wheel.namelist()
        (metadata,) = (name for name in names if name.endswith("METADATA"))
        fields = Parser().parsestr(wheel.read(metadata).decode())
    expected = {path.relative_to(ROOT).as_posix() for path in ROOT.glob("edgeqkv/**/*.py")}
    assert expected <= set(names)
    assert {"edgeqkv/py.typed", "edgeqkv/demo/model.pt", "edgeqkv/demo/tokenizer.json"} <= set(names)
    assert any(name.startswith("edgeqkv/recipes_data/") for name in names)
    assert not [name for name in names if name.split("/")[0] not in ("edgeqkv", "optimum", metadata.split("/")[0])]
    assert fields["License-Expression"] == "MIT"
    assert "Typing :: Typed" in fields.get_all("Classifier", [])


def test_the_command_is_the_wheels(installed: Path, built: Distributions, tmp_path: Path) -> None:
    env = environment(installed)
    assert run([installed / "edgeqkv", "--version"], tmp_path, env).strip() == version(built.wheel)
    where = run([installed / "python", "-c", "import edgeqkv; print(edgeqkv.__file__)"], tmp_path, env)
    assert Path(where.strip()).is_relative_to(installed.parent)


def test_the_ten_minute_page_works_word_for_word(installed: Path, tmp_path: Path) -> None:
    env = environment(installed)
    for kind, text in blocks(PAGE):
        if kind == "python":
            run([installed / "python", "-c", text], tmp_path, env)
            continue
        for line in commands(PAGE, text):
            if line.split()[0] == "edgeqkv":
                run(["bash", "-euc", line], tmp_path, env)
            else:
                check_install(line)
    for target in TARGETS:
        card = json.loads((tmp_path / "build" / target / "manifest.json").read_text(encoding="utf-8"))["targets"][
            target
        ]
        assert card["verification"]["passed"]
    assert "<svg" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_the_page_has_all_of_a_first_hour() -> None:
    """All three targets, speed, a comparison and a report are on it, so that the test above has run them."""
    text = PAGE.read_text(encoding="utf-8")
    for target in TARGETS:
        assert re.search(rf"^\$ edgeqkv export .*--target {target}\b", text, re.MULTILINE)
    for command in ("bench", "compare", "budget .*--html", "verify", "generate"):
        assert re.search(rf"^\$ edgeqkv {command}\b", text, re.MULTILINE), command
