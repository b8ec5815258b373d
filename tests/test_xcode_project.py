"""What is said of an Xcode project without Xcode."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from types import ModuleType

import pytest

IOS = Path(__file__).parent.parent / "device_tests" / "ios"
PROJECT = "Sample/EdgeQKVSample.xcodeproj"


@pytest.fixture(scope="module")
def project() -> ModuleType:
    spec = importlib.util.spec_from_file_location("xcode_project", IOS / "project.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The sample and its package's manifest, to be damaged."""
    shutil.copy(IOS / "Package.swift", tmp_path)
    shutil.copytree(IOS / "Sample", tmp_path / "Sample")
    return tmp_path / PROJECT


def test_the_sample_s_project_is_whole(project: ModuleType) -> None:
    assert project.check_project(IOS / PROJECT) == []


@pytest.mark.parametrize(
    ("before", "after", "complaint"),
    [
        ("relativePath = ..;", "relativePath = ../elsewhere;", "names ../elsewhere, which does not exist"),
        ("productName = EdgeQKV;", "productName = Other;", "uses the product Other, which the package does not have"),
        ("rootObject = ED6E", "rootObject = ED6F", "refers to ED6F000000000000000000E2, which is not in it"),
        ("CODE_SIGN_ENTITLEMENTS = Sample.entitlements;", "", "has a configuration without entitlements"),
        ("objectVersion = 77;", "objectVersion = 77", "'=' is missing|';' is missing"),
        ("classes = {", "archiveVersion = {", "'archiveVersion' is there twice"),
    ],
)
def test_what_is_missing_or_wrong_is_named(
    project: ModuleType, copy: Path, before: str, after: str, complaint: str
) -> None:
    file = copy / "project.pbxproj"
    text = file.read_text()
    assert before in text
    file.write_text(text.replace(before, after, 1))
    problems = "\n".join(project.check_project(copy))
    assert any(words in problems for words in complaint.split("|")), problems


def test_entitlements_have_to_ask_for_memory(project: ModuleType, copy: Path) -> None:
    entitlements = copy.parent / "Sample.entitlements"
    entitlements.write_text(entitlements.read_text().replace("<true/>", "<false/>"))
    assert "Sample.entitlements does not ask for more memory" in project.check_project(copy)
