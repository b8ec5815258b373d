"""The distributions, and an environment in which nothing of edgeqkv is but what its wheel brings."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import venv
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
FRESH = "EDGEQKV_FRESH"
"""Set to 1, an environment's packages are downloaded as a user's are; else the tests' own are borrowed, in a second."""


@dataclass(frozen=True)
class Distributions:
    sdist: Path
    wheel: Path


def build(folder: Path) -> Distributions:
    """The source distribution of this tree, and the wheel that is built from nothing but it."""
    _hatchling(ROOT, folder, "sdist")
    (sdist,) = folder.glob("*.tar.gz")
    with tarfile.open(sdist) as file:
        file.extractall(folder / "unpacked", filter="data")
    (source,) = (folder / "unpacked").iterdir()
    _hatchling(source, folder, "wheel")
    (wheel,) = folder.glob("*.whl")
    return Distributions(sdist, wheel)


def _hatchling(source: Path, folder: Path, kind: str) -> None:
    run([sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", folder], source)


def install(wheel: Path, folder: Path) -> Path:
    """Install a wheel into a new environment, and return the folder of its commands."""
    venv.create(folder, with_pip=False, symlinks=True)
    commands = folder / "bin"
    pip = [sys.executable, "-m", "pip", "--python", commands / "python", "--disable-pip-version-check", "install"]
    if os.environ.get(FRESH) == "1":
        run([*pip, f"{wheel}[all]"], folder)
        return commands
    run([*pip, "--no-deps", "--no-index", "--no-compile", wheel], folder)
    (site,) = folder.glob("lib/python*/site-packages")
    # Paths alone: the links to edgeqkv's sources that an editable install leaves there are not followed.
    borrowed = [path for path in sys.path if Path(path).name == "site-packages"]
    (site / "borrowed.pth").write_text("\n".join(borrowed) + "\n", encoding="utf-8")
    return commands


def environment(commands: Path) -> dict[str, str]:
    """Variables with which ``edgeqkv`` and ``python`` are those of the new environment, and know no other sources."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    return kept | {"PATH": f"{commands}{os.pathsep}{os.environ['PATH']}"}


def run(command: list[str | Path], folder: Path, env: dict[str, str] | None = None) -> str:
    """What a command prints; it fails with all that it said."""
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout
