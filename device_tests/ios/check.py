"""Check the Swift package and its app as far as a machine without Apple's frameworks can.

    python device_tests/ios/check.py

The package's core is compiled and its tests run, with Debian's Swift compiler. What uses Core ML, SwiftUI and Darwin is
compiled against hand-written signatures of what it calls.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(ROOT))

from project import check_project  # noqa: E402
from swift import Swift, prepare  # noqa: E402

from device_tests.apis import unlisted  # noqa: E402
from device_tests.debian import Unavailable  # noqa: E402
from edgeqkv.budget.device_report import read_device_report  # noqa: E402

SKIPPED = 77
SIGNATURES = ("CoreML", "CryptoKit", "Darwin", "os", "UniformTypeIdentifiers", "SwiftUI")
STRICT = ("-warnings-as-errors", "-swift-version")


def main() -> int:
    problems = unlisted(HERE / "signatures", HERE / "APIS.md")
    problems += check_project(HERE / "Sample" / "EdgeQKVSample.xcodeproj")
    if problems:
        print("\n".join(problems))
        return 1
    with tempfile.TemporaryDirectory() as scratch:
        try:
            swift = prepare(Path(scratch))
        except Unavailable as error:
            print(f"the Swift code was not compiled: {error}")
            return SKIPPED
        try:
            compile_all(swift)
            # In a folder of their own: the tests and the core are one module there, and must not find the core's.
            alone = Path(scratch) / "tests"
            alone.mkdir()
            return run_tests(replace(swift, out=alone))
        except subprocess.CalledProcessError:  # the compiler has said what is wrong
            return 1


def compile_all(swift: Swift) -> None:
    """The package and the app, warnings as errors; the signatures come first."""
    # Apple's modules can grow cases of their enumerations; so do these, and `@unknown default` means something.
    for name in SIGNATURES:
        swift.module(name, [HERE / "signatures" / f"{name}.swift"], "-enable-library-evolution", "-suppress-warnings")
    swift.module("EdgeQKVCore", sources("Sources/EdgeQKVCore"), *STRICT, "6")
    swift.module("EdgeQKV", sources("Sources/EdgeQKV"), *STRICT, "5")
    swift.check(sources("Sample/App"), *STRICT, "6", "-parse-as-library", "-module-name", "App")
    swift.check([HERE / "Package.swift"], *STRICT, "6", "-package-description-version", "6.0")


def run_tests(swift: Swift) -> int:
    """The core's tests, compiled with it as one module, and the report that they write."""
    tests = sources("Tests/EdgeQKVCoreTests")
    main_file = swift.out / "main.swift"
    main_file.write_text(f"import XCTest\n\nXCTMain([\n{''.join(map(cases, tests))}])\n")
    program = swift.program("Tests", [*sources("Sources/EdgeQKVCore"), *tests, main_file], *STRICT, "5")
    report = swift.out / "device-report.json"
    if swift.run(program, {"DEVICE_TESTS": str(HERE.parent), "DEVICE_REPORT": str(report)}):
        return 1
    print(f"the device report that it wrote is read: {read_device_report(report).device.name}")
    return 0


def cases(file: Path) -> str:
    """The tests of a file, as XCTest wants them listed where there is no Objective-C to find them."""
    names = re.findall(r"^    func (test\w+)", file.read_text(encoding="utf-8"), re.M)
    listed = ", ".join(f'("{name}", {file.stem}.{name})' for name in names)
    return f"    testCase([{listed}]),\n" if names else ""


def sources(folder: str) -> list[Path]:
    return sorted((HERE / folder).glob("*.swift"))


if __name__ == "__main__":
    sys.exit(main())
