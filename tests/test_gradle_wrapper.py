"""The script that completes the Android sample's Gradle wrapper, with a stand-in for Gradle."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

ANDROID = Path(__file__).parent.parent / "device_tests" / "android"
WRITES = 'mkdir -p gradle/wrapper && touch gradlew.bat gradle/wrapper/gradle-wrapper.jar && echo "$@" > gradlew'


@pytest.fixture(scope="module")
def wrapper() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gradle_wrapper", ANDROID / "wrapper.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def project(folder: Path, program: str, checksum: str | None = None) -> Path:
    """A project whose properties name a distribution with this program in Gradle's place."""
    with zipfile.ZipFile(folder / "gradle-1-bin.zip", "w") as archive:
        archive.writestr("gradle-1/bin/gradle", f"#!/bin/sh\n{program}\n")
    found = hashlib.sha256((folder / "gradle-1-bin.zip").read_bytes()).hexdigest()
    properties = folder / "project" / "gradle" / "wrapper" / "gradle-wrapper.properties"
    properties.parent.mkdir(parents=True)
    url = (folder / "gradle-1-bin.zip").as_uri().replace(":", "\\:")
    properties.write_text(f"distributionSha256Sum={checksum or found}\ndistributionUrl={url}\n")
    return folder / "project"


@pytest.mark.skipif(sys.platform == "win32", reason="the stand-in is a shell script")
def test_gradle_writes_the_wrapper(tmp_path: Path, wrapper: ModuleType) -> None:
    made = project(tmp_path, WRITES)
    wrapper.complete(made)
    assert all((made / name).is_file() for name in wrapper.MADE)
    assert "wrapper" in (made / "gradlew").read_text().split()


@pytest.mark.parametrize(
    ("program", "checksum", "complaint"),
    [
        (WRITES, "0" * 64, "and gradle-wrapper.properties says 0000"),
        ("echo 'no Java' >&2; exit 1", None, "did not write its wrapper: no Java"),
        ("true", None, "did not write its wrapper: it wrote nothing"),
    ],
)
def test_what_is_wrong_is_said_and_nothing_is_written(
    tmp_path: Path, wrapper: ModuleType, program: str, checksum: str | None, complaint: str
) -> None:
    made = project(tmp_path, program, checksum)
    with pytest.raises(wrapper.WrapperError, match=complaint):
        wrapper.complete(made)
    assert not any((made / name).exists() for name in wrapper.MADE)


def test_the_project_s_own_properties_are_read(wrapper: ModuleType) -> None:
    said = wrapper.settings(ANDROID)
    assert said["distributionUrl"].startswith("https://services.gradle.org/distributions/gradle-")
    assert len(said["distributionSha256Sum"]) == 64
