"""A Swift compiler for Linux: Debian 13's, unpacked into a folder of its own; nothing is installed.

It compiles and runs what is plain Swift and Foundation. Apple's frameworks exist on Apple's systems alone; what uses
them is compiled against modules of hand-written signatures.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = ["Swift", "Unavailable", "prepare"]

_KEYRING: Final = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_SOURCE: Final = f"deb [arch=amd64 signed-by={_KEYRING}] https://deb.debian.org/debian trixie main\n"
_COMPILER: Final = "swiftlang"
_LIBRARIES: Final = (
    "libswiftlang", "libc6", "libc6-dev", "linux-libc-dev", "libgcc-s1", "libstdc++6", "libxml2", "liblzma5",
    "libtinfo6", "libuuid1", "libzstd1", "zlib1g",
)  # fmt: skip
_LIB: Final = "usr/libexec/swift/lib"
_PARTS: Final = (
    "usr/libexec/swift/bin/swift-frontend", "usr/libexec/swift/bin/lld", f"{_LIB}/clang/*/include/*",
    *(f"{_LIB}/swift/{name}/*" for name in (
        "linux", "shims", "Block", "CoreFoundation", "_FoundationCShims", "_foundation_unicode", "dispatch",
        "os", "pm/ManifestAPI", "host/plugins"
    )),
    f"{_LIB}/swift/clang",
)  # fmt: skip
"""What is taken of the compiler's 2 GB: half a GB."""

_LINKED: Final = (
    "swiftCore", "swift_Concurrency", "swift_StringProcessing", "swift_RegexParser", "swiftSwiftOnoneSupport",
    "swiftGlibc", "swiftDispatch", "dispatch", "BlocksRuntime", "Foundation", "FoundationEssentials",
    "FoundationInternationalization", "XCTest", "c", "m",
)  # fmt: skip


class Unavailable(Exception):
    """The compiler cannot be had on this machine; the message says why."""


@dataclass(frozen=True)
class Swift:
    """Debian's compiler in ``root``; modules and programs are made in ``out``."""

    root: Path
    out: Path

    def module(self, name: str, sources: Iterable[Path], *options: str) -> None:
        """Compile sources to a module that later ones can import."""
        made = ["-emit-module", "-parse-as-library", "-module-name", name, "-o", str(self.out / f"{name}.swiftmodule")]
        self._compile([*made, *options, *map(str, sources)])

    def check(self, sources: Iterable[Path], *options: str) -> None:
        """Compile sources as far as their types."""
        self._compile(["-typecheck", *options, *map(str, sources)])

    def program(self, name: str, sources: Iterable[Path], *options: str) -> Path:
        """Compile and link sources, ``main.swift`` among them."""
        compiled, made = self.out / f"{name}.o", self.out / name
        self._compile(["-c", "-wmo", "-module-name", name, "-o", str(compiled), *options, *map(str, sources)])
        libc, swift = self.root / "usr/lib/x86_64-linux-gnu", self.root / _LIB / "swift/linux"
        parts = [libc / "crt1.o", libc / "crti.o", swift / "x86_64/swiftrt.o", compiled, libc / "crtn.o"]
        folders = [part for folder in (swift, libc) for part in ("-L", folder)]
        libraries = [f"-l{library}" for library in _LINKED]
        linker = self.root / "usr/libexec/swift/bin/lld"
        self._run(linker, ["-o", made, *parts, *folders, "--allow-shlib-undefined", *libraries], name="ld.lld")
        return made

    def run(self, program: Path, environment: dict[str, str]) -> int:
        """Run a program with Debian 13's libraries; its exit status."""
        return self._run(program, [], environment=os.environ | environment, check=False)

    def _compile(self, arguments: Sequence[str]) -> None:
        swift = self.root / _LIB / "swift"
        folders = [swift / "linux", swift / "linux/x86_64", swift, swift / "pm/ManifestAPI", self.out]
        options = [
            "-resource-dir", swift, "-sdk", self.root, *(part for folder in folders for part in ("-I", folder)),
            "-module-cache-path", self.out / "cache", "-plugin-path", swift / "host/plugins",
        ]  # fmt: skip
        self._run(self.root / "usr/libexec/swift/bin/swift-frontend", [*arguments, *options])

    def _run(
        self,
        program: Path,
        arguments: Sequence[str | Path],
        *,
        name: str = "",
        environment: dict[str, str] | None = None,
        check: bool = True,
    ) -> int:
        # Through Debian 13's own loader, because its programs ask for a newer C library than the machine's may be.
        libc, swift = self.root / "usr/lib/x86_64-linux-gnu", self.root / _LIB
        libraries = ":".join(map(str, (libc, swift / "swift/linux", swift / "swift/host")))
        loader: list[str | Path] = [
            libc / "ld-linux-x86-64.so.2",
            "--argv0",
            name or str(program),
            "--library-path",
            libraries,
        ]
        return subprocess.run([*loader, program, *arguments], env=environment, check=check).returncode


def prepare(out: Path) -> Swift:
    """The compiler, from the cache or else fetched (470 MB, unpacked in half a minute) into it.

    Raises:
        Unavailable: this machine is no amd64 Debian or Ubuntu, or the network does not give what is needed.
    """
    recipe = "\n".join((_SOURCE, _COMPILER, *_LIBRARIES, *_PARTS))
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgeqkv"
    folder = cache / f"swift-{hashlib.sha256(recipe.encode()).hexdigest()[:12]}"
    if not folder.is_dir():
        _check_machine()
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as place:
            made = Path(place) / "made"
            made.mkdir()
            for package in _fetch(Path(place)):
                _unpack(package, made, _PARTS if package.name.startswith(f"{_COMPILER}_") else ())
                package.unlink()
            made.rename(folder)
    return Swift(folder, out)


def _check_machine() -> None:
    for tool in ("apt-get", "dpkg-deb", "tar"):
        if shutil.which(tool) is None:
            raise Unavailable(f"'{tool}' is missing: the Swift compiler is Debian's")
    if not _KEYRING.is_file():
        raise Unavailable(f"{_KEYRING} is missing: install the package debian-archive-keyring")
    architecture = subprocess.run(["dpkg", "--print-architecture"], capture_output=True, text=True, check=True)
    if architecture.stdout.strip() != "amd64":
        raise Unavailable(
            f"the Swift compiler is fetched for amd64 machines, and this is {architecture.stdout.strip()}"
        )


def _fetch(place: Path) -> list[Path]:
    """Download the packages, checked against Debian's signed index, with a configuration of apt that is ours alone."""
    archives = place / "archives"
    for folder in (archives / "partial", place / "lists" / "partial"):
        folder.mkdir(parents=True)
    (place / "sources.list").write_text(_SOURCE)
    (place / "status").touch()
    settings = {
        "Dir::Etc::SourceList": place / "sources.list",
        "Dir::Etc::SourceParts": "/dev/null",
        "Dir::State": place,
        "Dir::State::Lists": place / "lists",
        "Dir::State::Status": place / "status",
        "Dir::Cache": place,
        "Dir::Cache::Archives": archives,
        "APT::Architecture": "amd64",
        "APT::Sandbox::User": "",
        "APT::Update::Error-Mode": "any",
        "Acquire::https::Timeout": 20,
        "Acquire::Languages": "none",
        "Debug::NoLocking": 1,
    }
    options = [part for name, value in settings.items() for part in ("-o", f"{name}={value}")]
    for command in (["update"], ["download", _COMPILER, *_LIBRARIES]):
        done = subprocess.run(
            ["apt-get", "-q", *options, *command], cwd=archives, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise Unavailable(f"Debian 13's packages could not be fetched: {done.stderr.strip().splitlines()[-1]}")
    return sorted(archives.glob("*.deb"))


def _unpack(package: Path, made: Path, parts: Sequence[str]) -> None:
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", package], stdout=subprocess.PIPE) as content:
        wanted = ["--wildcards", *(f"./{part}" for part in parts)] if parts else []
        subprocess.run(["tar", "-x", "-C", made, "--exclude=./usr/share", *wanted], stdin=content.stdout, check=True)
