"""The C++ sample: it builds without a warning, and computes in both runtimes what edgeqkv computes in Python.

The runtimes are those of Python's own packages: ONNX Runtime's library from its wheel, ExecuTorch's libraries, headers
and CMake files from its. What the former's wheel lacks, the headers, is Debian's.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

import numpy as np

from device_tests.debian import Unavailable, cached, check_machine, fetch, source, unpack
from device_tests.suite import STEPS, WORK, Difference, export_demo, greedy, prompt_ids, skip

HERE: Final = Path(__file__).parent
OUT: Final = WORK / "cpp"

SOURCE: Final = source("trixie", "amd64")
PACKAGES: Final = ("libonnxruntime-dev", "nlohmann-json3-dev")

BUNDLES: Final = {
    "fp32": {"weights": "fp32"},
    "static": {"weights": "int4", "form": "static"},
    "ort-int8-state": {"weights": "int4", "form": "ort", "state": "int8"},
    "executorch": {"target": "executorch", "weights": "int4", "form": "portable"},
}
"""One of them has graphs of fixed sizes, which are filled up; one has outputs that hold the same."""

ROUNDING: Final = 1e-4
"""Nothing differs but how the threads share the work: the library and the processor are the same. 0 was measured."""


def main() -> int:
    for tool in ("cmake", "c++", "make"):
        if shutil.which(tool) is None:
            skip(f"'{tool}' is missing: install the packages cmake and g++")
    try:
        headers = prepare_headers()
    except Unavailable as error:
        skip(str(error))
    program = build(headers / "usr")
    prompt = prompt_ids()
    passed = True
    for name, options in BUNDLES.items():
        folder = export_demo(f"cpp/{name}", **options)
        passed = check_bundle(program, name, folder, prompt) and passed
    return 0 if passed and refuses(program, OUT / "fp32") else 1


def prepare_headers() -> Path:
    """The headers of ONNX Runtime's C++ API and of nlohmann's JSON, from the cache or else from Debian (350 kB)."""

    def make(place: Path, made: Path) -> None:
        check_machine("a header")
        for package in fetch(place, (SOURCE,), PACKAGES, architectures=("amd64",), whole=False):
            unpack(package, made)

    return cached("cpp", "\n".join((SOURCE, *PACKAGES)), make)


def build(headers: Path) -> Path:
    """Build everything and run the tests of the sample's own code; the program."""
    place = OUT / "build"
    place.mkdir(parents=True, exist_ok=True)
    # The wheel has the library under its version's name alone, and programs ask for the name of its interface.
    library = place / "libonnxruntime.so.1"
    library.unlink(missing_ok=True)
    library.symlink_to(max((package("onnxruntime") / "capi").glob("libonnxruntime.so.*")))
    settings = {
        "CMAKE_PREFIX_PATH": f"{package('executorch')};{headers}",
        "ONNXRUNTIME_INCLUDE_DIR": headers / "include" / "onnxruntime",
        "ONNXRUNTIME_LIBRARY": library,
    }
    options = [f"-D{name}={value}" for name, value in settings.items()]
    for command in (
        ["cmake", "--log-level=WARNING", "-S", HERE, "-B", place, *options],
        ["cmake", "--build", place, "--parallel", str(len(os.sched_getaffinity(0)))],
        ["ctest", "--test-dir", place, "--output-on-failure"],
    ):
        subprocess.run(command, check=True)
    return place / "edgeqkv-sample"


def package(name: str) -> Path:
    """The folder of an installed package; nothing of it is run."""
    found = importlib.util.find_spec(name)
    if found is None or not found.submodule_search_locations:
        skip(f"the package {name} is not installed")
    return Path(found.submodule_search_locations[0])


def check_bundle(program: Path, name: str, folder: Path, prompt: list[int]) -> bool:
    """Whether the program's tokens and logits are Python's."""
    logits_file = OUT / f"{name}.logits"
    ids = ",".join(map(str, prompt))
    command = [program, folder, "--ids", ids, "--tokens", str(STEPS), "--logits", logits_file]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"{name}: {done.stderr.strip()}")
        return False
    reference = greedy(folder, prompt)
    found = np.fromfile(logits_file, np.float32).reshape(STEPS, -1)
    difference = Difference.between(found, reference, ROUNDING)
    same = [int(token) for token in done.stdout.split()] == reference.argmax(axis=1).tolist()
    print(f"{name}: {difference}{'' if same else ', and other tokens are printed'}", flush=True)
    return difference.passed and same


def refuses(program: Path, folder: Path) -> bool:
    """Whether what cannot be used is refused in words."""
    passed = True
    for arguments, words in (
        ([folder, "--ids", "1,x"], "a token of --ids is 'x', not a number"),
        ([folder, "--ids", "1,2000"], "token 2000 is not in this model's vocabulary"),
        ([folder, "--ids", "1", "--target", "coreml"], "holds onnx, not 'coreml'"),
        ([folder / "none", "--ids", "1"], "there is no bundle"),
    ):
        done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False)
        if done.returncode != 2 or words not in done.stderr:
            print(f"{arguments[1:]}: exit code {done.returncode}, and not '{words}', but: {done.stderr.strip()}")
            passed = False
    return passed


sys.exit(main())
