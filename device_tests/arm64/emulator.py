"""An emulated arm64 Linux: qemu-user, a small Debian root and the aarch64 wheels of what edgeqkv imports.

Everything is unpacked, nothing is installed (`device_tests.debian`).
"""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Final

from device_tests.debian import cached, check_machine, download, fetch, source, unpack

__all__ = ["Emulator", "prepare"]

_ROOT: Final = Path(__file__).parent.parent.parent

# Bookworm for the root: its Python is one that every wheel is built for. Its own qemu, 7.2, crashes in ONNX Runtime's
# wheel; the backport is 10.
_SOURCES: Final = (source("bookworm", "arm64"), source("bookworm-backports", "amd64"))
_PACKAGES: Final = ("python3", "libstdc++6", "qemu-user:amd64")
_PYTHON: Final = "3.11"
# pydantic's core is built for an older glibc than the others.
_PLATFORMS: Final = ("manylinux_2_28_aarch64", "manylinux_2_17_aarch64")


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
    recipe = "\n".join((*_SOURCES, *_PACKAGES, _PYTHON, *_PLATFORMS, *wheels))

    def make(place: Path, made: Path) -> None:
        check_machine("the emulator")
        for package in fetch(place, _SOURCES, _PACKAGES, architectures=("arm64", "amd64"), whole=True):
            if package.name.startswith("qemu-user_"):  # one of its forty emulators, which are 370 MB together
                unpack(package, made, ("usr/bin/qemu-aarch64",), strip=3)
            else:
                (made / "root").mkdir(exist_ok=True)
                unpack(package, made / "root")
        for wheel in _fetch_wheels(place / "wheels", wheels):
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(made / "site")

    return Emulator(cached("arm64", recipe, make))


def _fetch_wheels(place: Path, wheels: Sequence[str]) -> list[Path]:
    options = [f"--platform={name}" for name in _PLATFORMS]
    options += [f"--python-version={_PYTHON}", "--implementation=cp", "--only-binary=:all:", "--quiet"]
    download([sys.executable, "-m", "pip", "download", f"--dest={place}", *options, *wheels], "aarch64 wheels")
    return sorted(place.glob("*.whl"))
