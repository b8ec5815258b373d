"""A Swift compiler for Linux: Debian 13's, unpacked into a folder of its own; nothing is installed.

It compiles and runs what is plain Swift and Foundation. Apple's frameworks exist on Apple's systems alone; what uses
them is compiled against modules of hand-written signatures.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from device_tests.debian import cached, check_machine, fetch, source, unpack

__all__ = ["Swift", "prepare"]

_SOURCE: Final = source("trixie", "amd64")
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

    def make(place: Path, made: Path) -> None:
        check_machine("the Swift compiler")
        packages = (_COMPILER, *_LIBRARIES)
        for package in fetch(place, (_SOURCE,), packages, architectures=("amd64",), whole=False):
            unpack(package, made, _PARTS if package.name.startswith(f"{_COMPILER}_") else ())
            package.unlink()

    return Swift(cached("swift", recipe, make), out)
