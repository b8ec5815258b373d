"""Packages as fixtures, for test files that say ``pytest_plugins = ("mil_fixtures",)``."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from mil_packages import colors_package, merged_package, product_package


@pytest.fixture
def merged(tmp_path: Path) -> Path:
    """Two functions over one state and one table; a copy that a test may damage."""
    return Path(shutil.copytree(merged_package(), tmp_path / "copy.mlpackage"))


@pytest.fixture
def product() -> Path:
    """y = x @ TABLE.T, and its square."""
    return product_package()


@pytest.fixture
def colors(tmp_path: Path) -> Path:
    return Path(shutil.copytree(colors_package(), tmp_path / "colors.mlpackage"))
