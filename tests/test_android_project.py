"""The Android project, as far as no compiler sees it: resources, versions, modules."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parent.parent
ANDROID = ROOT / "device_tests" / "android"


@pytest.fixture
def check(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setattr(sys, "path", [str(ROOT), *sys.path])
    spec = importlib.util.spec_from_file_location("android_check", ANDROID / "check.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_parts_fit_together(check: ModuleType) -> None:
    assert check.check_project() == []


def test_runtimes_of_other_versions_than_python_s_are_named(check: ModuleType) -> None:
    problems = check.other_versions({"onnxruntime": "1.30.0", "executorch": "1.5.10"})
    assert [problem.split(",")[0] for problem in problems] == [
        "libs.versions.toml has onnxruntime 1.30.0",
        "libs.versions.toml has executorch 1.5.10",
    ]


def test_a_resource_that_is_nowhere_is_named(
    check: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    main = tmp_path / "app" / "src" / "main"
    shutil.copytree(ANDROID / "app" / "src" / "main", main)
    monkeypatch.setattr(check, "HERE", tmp_path)
    assert check.unresolved(main) == []
    (main / "res" / "drawable" / "icon.xml").unlink()
    assert (
        check.unresolved(main)
        == ["app/src/main/res/mipmap-anydpi/ic_launcher.xml uses @drawable/icon, which is not defined"] * 2
    )
