"""What a release is made of beside the distributions (tests/first_hour): changelog, citation, container."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import yaml
from packaging.version import Version
from pages import EXTRAS, PROJECT

ROOT = Path(__file__).parent.parent
TOOLS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
HEADING = re.compile(r"^## (\d+\.\d+\.\d+) \((unreleased|\d{4}-\d\d-\d\d)\)$", re.MULTILINE)


def changelog() -> str:
    return (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def released() -> list[str]:
    return [version for version, when in HEADING.findall(changelog()) if when != "unreleased"]


def tags() -> list[Version]:
    """Those that this copy has: few clones in CI have any."""
    done = subprocess.run(["git", "tag", "--list", "v*"], cwd=ROOT, capture_output=True, text=True, check=False)
    return [Version(tag.removeprefix("v")) for tag in done.stdout.split()]


def test_the_changelog_has_a_section_a_version_newest_first() -> None:
    sections = HEADING.findall(changelog())
    assert len(sections) == len(re.findall(r"^## ", changelog(), re.MULTILINE)), "a heading is no version and date"
    versions = [Version(version) for version, _ in sections]
    assert versions == sorted(versions, reverse=True)
    assert "unreleased" not in [when for _, when in sections[1:]]


def test_every_tag_has_a_dated_section() -> None:
    assert set(tags()) <= {Version(version) for version in released()}


def test_a_copy_without_git_is_a_development_version_of_the_first_section() -> None:
    version = Version(TOOLS["hatch"]["version"]["fallback-version"])
    assert version.is_devrelease
    assert version.base_version == HEADING.findall(changelog())[0][0]


def test_the_classifiers_are_the_pythons_that_it_takes() -> None:
    listed = {text.rpartition(" ")[2] for text in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", text)}
    assert listed == {"3.11", "3.12", "3.13"}
    assert PROJECT["requires-python"] == ">=3.11,<3.14"
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))
    assert set(workflow["jobs"]["test"]["strategy"]["matrix"]["python"]) <= listed


def test_nothing_claims_to_be_on_an_index_before_a_release() -> None:
    if not released():
        for page in (ROOT / "README.md", *ROOT.glob("docs/*.md")):
            assert not re.search(
                r"^\$ .*(install|uvx|pipx run) '?edgeqkv", page.read_text(encoding="utf-8"), re.MULTILINE
            )


def test_the_citation_is_whole() -> None:
    """https://github.com/citation-file-format/citation-file-format/blob/main/schema-guide.md"""
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    assert citation["license"] == PROJECT["license"]
    assert [author["name"] for author in citation["authors"]] == [author["name"] for author in PROJECT["authors"]]
    for reference in citation["references"]:
        assert {"type", "title", "authors", "year"} <= set(reference)


def test_the_container_is_made_of_what_there_is() -> None:
    lines = (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ").splitlines()
    copied = {source for line in lines if line.startswith("COPY ") for source in line.split()[1:-1]}
    admitted = {
        line[1:] for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines() if line[0] == "!"
    }
    assert copied == admitted
    assert all((ROOT / source).exists() for source in copied)
    included = {TOOLS["hatch"]["build"]["targets"]["wheel"]["packages"][0], "export_recipes", "pyproject.toml"}
    assert included | {PROJECT["readme"], *PROJECT["license-files"]} <= copied
    (install,) = (line for line in lines if "pip install" in line)
    extra = re.search(r"/source\[(\w+)\]", install)
    assert extra
    assert extra[1] in EXTRAS
    assert f"ARG VERSION={TOOLS['hatch']['version']['fallback-version']}" in lines
    assert lines.index("USER edgeqkv") < next(i for i, line in enumerate(lines) if line.startswith("ENTRYPOINT"))
