"""An emulated arm64 Linux: qemu-user, a small Debian root and the aarch64 wheels of what edgeqkv imports.

Everything is unpacked, nothing is installed: no root rights are needed and the machine's own packages stay as they are.
What apt fetches is checked against Debian's signed index.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Final

__all__ = ["Emulator", "Unavailable", "prepare"]

_ROOT: Final = Path(__file__).parent.parent.parent
_KEYRING: Final = Path("/usr/share/keyrings/debian-archive-keyring.gpg")

# Bookworm for the root: its Python is one that every wheel is built for. Its own qemu, 7.2, crashes in ONNX Runtime's
# wheel; the backport is 10.
_SOURCES: Final = f"""\
deb [arch=arm64 signed-by={_KEYRING}] https://deb.debian.org/debian bookworm main
deb [arch=amd64 signed-by={_KEYRING}] https://deb.debian.org/debian bookworm-backports main
"""
_PACKAGES: Final = ("python3", "libstdc++6", "qemu-user:amd64")
_PYTHON: Final = "3.11"
# pydantic's core is built for an older glibc than the others.
_PLATFORMS: Final = ("manylinux_2_28_aarch64", "manylinux_2_17_aarch64")


class Unavailable(Exception):
    """The emulator cannot be had on this machine; the message says why."""


@dataclass(frozen=True)
class Emulator:
    """Runs Python programs on an emulated core."""

    folder: Path

    def run(self, core: str, arguments: Sequence[str | Path]) -> None:
        """Run Python with these arguments on a core of qemu's list (``cortex-a76``).

        Raises:
            subprocess.CalledProcessError: the program failed.
        """
        root = self.folder / "root"
        processor = {max(os.sched_getaffinity(0))}
        subprocess.run(
            [self.folder / "qemu-aarch64", "-cpu", core, "-L", root, root / f"usr/bin/python{_PYTHON}", *arguments],
            env=os.environ | {"PYTHONPATH": f"{self.folder / 'site'}:{_ROOT}"},
            # Emulated threads wait for each other by spinning: one takes half the time of two.
            preexec_fn=lambda: os.sched_setaffinity(0, processor),
            check=True,
        )


def prepare() -> Emulator:
    """The emulator, from the cache or else fetched (about 110 MB) into it.

    Raises:
        Unavailable: this machine is no amd64 Debian or Ubuntu, or the network does not give what is needed.
    """
    runtime = (f"{name}=={metadata.version(name)}" for name in ("onnxruntime", "onnx"))
    wheels = (*runtime, "numpy>=2.0", "pydantic>=2.9")
    recipe = "\n".join((_SOURCES, *_PACKAGES, _PYTHON, *_PLATFORMS, *wheels))
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgeqkv"
    folder = cache / f"arm64-{hashlib.sha256(recipe.encode()).hexdigest()[:12]}"
    if not folder.is_dir():
        _check_machine()
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as place:
            made = Path(place) / "made"
            made.mkdir()
            _unpack_debian(_fetch_debian(Path(place)), made)
            _unpack_wheels(_fetch_wheels(Path(place) / "wheels", wheels), made / "site")
            made.rename(folder)
    return Emulator(folder)


def _check_machine() -> None:
    for tool in ("apt-get", "dpkg-deb", "tar"):
        if shutil.which(tool) is None:
            raise Unavailable(f"'{tool}' is missing: the emulator is made of Debian's packages")
    if not _KEYRING.is_file():
        raise Unavailable(f"{_KEYRING} is missing: install the package debian-archive-keyring")
    architecture = subprocess.run(["dpkg", "--print-architecture"], capture_output=True, text=True, check=True)
    if architecture.stdout.strip() != "amd64":
        raise Unavailable(f"the emulator is fetched for amd64 machines, and this is {architecture.stdout.strip()}")


def _fetch_debian(place: Path) -> list[Path]:
    """Download the packages and what they depend on, with a configuration of apt that is ours alone."""
    archives = place / "apt" / "archives"
    for folder in (archives / "partial", place / "apt" / "lists" / "partial"):
        folder.mkdir(parents=True)
    sources, status = place / "sources.list", place / "status"
    sources.write_text(_SOURCES)
    status.touch()  # nothing is installed: every dependency is downloaded
    settings = {
        "Dir::Etc::SourceList": sources,
        "Dir::Etc::SourceParts": "/dev/null",
        "Dir::State": place / "apt",
        "Dir::State::Lists": place / "apt" / "lists",
        "Dir::State::Status": status,
        "Dir::Cache": place / "apt",
        "Dir::Cache::Archives": archives,
        "APT::Architecture": "arm64",
        "APT::Architectures::": "amd64",
        "APT::Sandbox::User": "",
        "APT::Update::Error-Mode": "any",
        "Acquire::https::Timeout": 20,
        "Acquire::Languages": "none",
        "Debug::NoLocking": 1,
    }
    options = [part for name, value in settings.items() for part in ("-o", f"{name}={value}")]
    _download(["apt-get", *options, "-q", "update"], "Debian's package index")
    fetch = ["-q", "-y", "--no-install-recommends", "--download-only", "install", *_PACKAGES]
    _download(["apt-get", *options, *fetch], "Debian's packages")
    return sorted(archives.glob("*.deb"))


def _unpack_debian(packages: list[Path], made: Path) -> None:
    for package in packages:
        if not package.name.startswith("qemu-user_"):
            subprocess.run(["dpkg-deb", "-x", package, made / "root"], check=True)
            continue
        # One of its forty emulators, which are 370 MB together.
        content = subprocess.Popen(["dpkg-deb", "--fsys-tarfile", package], stdout=subprocess.PIPE)
        subprocess.run(
            ["tar", "-x", "-C", made, "--strip-components=3", "./usr/bin/qemu-aarch64"],
            stdin=content.stdout,
            check=True,
        )
        content.wait()


def _fetch_wheels(place: Path, wheels: Sequence[str]) -> list[Path]:
    options = [f"--platform={name}" for name in _PLATFORMS]
    options += [f"--python-version={_PYTHON}", "--implementation=cp", "--only-binary=:all:", "--quiet"]
    _download([sys.executable, "-m", "pip", "download", f"--dest={place}", *options, *wheels], "aarch64 wheels")
    return sorted(place.glob("*.whl"))


def _unpack_wheels(wheels: list[Path], site: Path) -> None:
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(site)


def _download(command: Sequence[str], what: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
        raise Unavailable(f"{what} could not be downloaded: {' '.join(last) or 'no reason given'}")
