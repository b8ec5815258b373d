"""The web app: it type-checks, builds, and in a real browser computes and writes what edgeqkv does in Python."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import numpy as np

from device_tests.suite import PROMPT, STEPS, WORK, Difference, export_demo, greedy, prompt_ids, skip
from edgeqkv import demo
from edgeqkv.budget.device_report import check_bundle as check_device_report
from edgeqkv.budget.device_report import read_device_report
from edgeqkv.bundle.bundle import Bundle

HERE: Final = Path(__file__).parent
OUT: Final = WORK / "web"

BUNDLES: Final = {
    "fp32": {"weights": "fp32"},
    "fp16": {"weights": "fp16", "state": "fp16"},
    "int8": {"weights": "int8"},
    "int4": {"weights": "int4"},
    "ort-int8-state": {"weights": "int4", "form": "ort", "state": "int8"},
    "static": {"weights": "int4", "form": "static"},
    "genai": {"weights": "fp32", "form": "genai"},
}
"""The later ones are called otherwise: by masks, or in graphs of a fixed size, which are filled up."""

BUDGETED: Final = "int4"
DEVICES: Final = ("pixel-9-pro", "iphone-15")
TEXT_TOKENS: Final = 90

ROUNDING: Final = 1e-4
"""Of float32 sums in another order: 2e-5 was measured, at logits of up to 18. It holds for quantized weights too: the
runtime's WebAssembly build multiplies their codes in float32, as the engine ``exact`` does, whatever the graph's
``accuracy_level`` lets it do."""

HALF: Final = 2.0**-11
"""Of the largest logit, for an fp16 state: half precision's own rounding, because a number that lies in the middle
between two is rounded to either. 5e-4 was measured, where 9e-3 is allowed."""

CODES: Final = 0.02
"""Of the largest logit, for an int8 state: rounding can put a number on the other side of the middle between two codes,
as in the suite ``arm64``."""

GRAPHICS: Final = "fp32"
"""The bundle that WebGPU computes too, held to the same bound: 1.9e-5 was measured. Quantized ones need half precision,
which the graphics unit that Chromium emulates does not have."""

GRAPHICS_STEPS: Final = 8
"""Tokens that are compared there, after the prompt's three calls: an emulated graphics unit takes 5 seconds for one."""

WIRE: Final = 1_100_000
"""Bytes that the int4 bundle may take over the wire together with the page, without the runtime."""

BROWSERS: Final = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
NO_NETWORK: Final = ("ENOTFOUND", "EAI_AGAIN", "ECONNREFUSED", "ECONNRESET", "ETIMEDOUT", "ENETUNREACH")


def main() -> int:
    check_node()
    browser = find_browser()
    install_packages()
    npm("test")
    npm("run", "build")
    folders = export_bundles()
    plan = {
        "browser": browser,
        "prompt": PROMPT,
        "steps": STEPS,
        "text": {"prompt": demo.DEMO_PROMPT, "tokens": TEXT_TOKENS},
        "bundles": {name: str(folder) for name, folder in folders.items()},
        "budgeted": BUDGETED,
        "damaged": str(damaged_copy(folders["int4"])),
        "graphics": {"bundle": GRAPHICS, "steps": GRAPHICS_STEPS},
    }
    (OUT / "plan.json").write_text(json.dumps(plan))
    subprocess.run(["node", "tests/drive.mjs", OUT / "plan.json", OUT / "seen"], cwd=HERE, check=True)
    result = json.loads((OUT / "seen" / "result.json").read_text())
    seen = result["bundles"]
    passed = [check_bundle(name, folder, seen[name]) for name, folder in folders.items()]
    passed.append(check_graphics(folders[GRAPHICS], result.get("graphics")))
    check_report(folders[BUDGETED])
    return 0 if all([*passed, check_wire(seen["int4"])]) else 1


def check_node() -> None:
    """Skip unless Node.js is there, and new enough for the build."""
    if shutil.which("npm") is None:
        skip("Node.js and npm are missing")
    version = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True).stdout.strip()
    if tuple(int(part) for part in version.removeprefix("v").split(".")[:2]) < (20, 19):
        skip(f"Node.js is {version}; 20.19 or newer is needed")


def find_browser() -> str:
    """Chromium or Chrome; Debian's Chromium is installed if there is neither and we may."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    return found or install_browser()


def install_browser() -> str:
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        skip("there is no Chromium; install the package 'chromium'")
    for command in (["update"], ["install", "-y", "--no-install-recommends", "chromium"]):
        done = subprocess.run(["apt-get", "-q", *command], capture_output=True, text=True, check=False)
        if done.returncode:
            skip(f"there is no Chromium, and apt-get could not install it: {last_line(done.stderr)}")
    return "/usr/bin/chromium"


def install_packages() -> None:
    """`npm ci`, unless what is installed is what the lock file says."""
    stamp, lock = HERE / "node_modules" / ".lock", (HERE / "package-lock.json").read_bytes()
    if stamp.is_file() and stamp.read_bytes() == lock:
        return
    done = subprocess.run(["npm", "ci", "--fetch-retries=1"], cwd=HERE, capture_output=True, text=True, check=False)
    unreached = [line for line in done.stderr.splitlines() if any(word in line for word in NO_NETWORK)]
    if done.returncode and unreached:
        skip(f"npm's registry cannot be reached: {max(unreached, key=len).removeprefix('npm error').strip()}")
    if done.returncode:
        sys.stderr.write(done.stderr)
        done.check_returncode()
    stamp.write_bytes(lock)


def npm(*arguments: str) -> None:
    subprocess.run(["npm", *arguments, "--silent"], cwd=HERE, check=True)


def export_bundles() -> dict[str, Path]:
    return {
        name: export_demo(f"web/{name}", devices=DEVICES if name == BUDGETED else (), **options)
        for name, options in BUNDLES.items()
    }


def damaged_copy(bundle: Path) -> Path:
    """The bundle with one bit of its weights changed."""
    copy = OUT / "damaged"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(bundle, copy)
    with (copy / "model.onnx.data").open("r+b") as file:
        first = file.read(1)[0]
        file.seek(0)
        file.write(bytes([first ^ 1]))
    return copy


def check_bundle(name: str, folder: Path, seen: dict[str, Any]) -> bool:
    """Whether the page's tokens, logits and text are Python's."""
    logits = np.fromfile(OUT / "seen" / f"{name}.logits", np.float32).reshape(STEPS, -1)
    reference = greedy(folder, prompt_ids(), "exact")
    parts = {"fp16": HALF, "int8": CODES}  # of the largest logit, by the state's precision
    part = parts.get(BUNDLES[name].get("state", ""))
    allowed = ROUNDING if part is None else part * float(np.abs(reference).max())
    difference = Difference.between(logits, reference, allowed)
    checks = {
        "the prompt's tokens are equal": seen["ids"] == prompt_ids(),
        "the page takes the most likely tokens": seen["tokens"] == logits.argmax(axis=1).tolist(),
        str(difference): difference.passed,
        "the text is what 'edgeqkv generate' writes": seen["text"] == written_by_python(folder),
    }
    for what, right in checks.items():
        print(f"{name}: {what}{'' if right else ': NO'}")
    return all(checks.values())


def check_graphics(folder: Path, seen: dict[str, Any] | None) -> bool:
    """Whether WebGPU's tokens and logits are Python's, if the browser has it."""
    if seen is None:
        print("this browser offers no WebGPU, which was not run")
        return True
    logits = np.fromfile(OUT / "seen" / "webgpu.logits", np.float32).reshape(GRAPHICS_STEPS, -1)
    reference = greedy(folder, prompt_ids(), "exact")[:GRAPHICS_STEPS]
    difference = Difference.between(logits, reference, ROUNDING)
    print(f"{GRAPHICS} on WebGPU: {difference}")
    return difference.passed and seen["ids"] == prompt_ids() and seen["tokens"] == logits.argmax(axis=1).tolist()


def written_by_python(folder: Path) -> str:
    """What ``edgeqkv generate --temperature 0`` writes, in the arithmetic that the browser has."""
    command = ["generate", str(folder), "--prompt", demo.DEMO_PROMPT, "--max-tokens", str(TEXT_TOKENS)]
    done = subprocess.run(
        [sys.executable, "-m", "edgeqkv", *command, "--temperature", "0", "--engine", "exact"],
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.removesuffix("\n")


def check_report(folder: Path) -> None:
    """The report that the page saved is of this bundle, whose context it filled, and has the memory it was told."""
    bundle, report = Bundle(folder), read_device_report(OUT / "seen" / "device-report.json")
    check_device_report(report, bundle)
    assert report.filled == bundle.target("onnx").artifact.context, report
    assert report.state_bytes == bundle.target("onnx").artifact.state_bytes, report
    assert report.memory is not None, report
    assert (report.memory.before_bytes, report.memory.peak_bytes) == (2_000_000, 20_000_000), report
    print(f"device-report.json is of {folder.name}, by {report.browser}")


def check_wire(seen: dict[str, Any]) -> bool:
    bundle, page, runtime = seen["bundleBytes"], seen["pageBytes"], seen["runtimeBytes"]
    print(f"over the wire: int4 bundle {bundle:,}, page {page:,}, runtime {runtime:,} bytes")
    assert bundle > 0, "the bundle's bytes were not counted"
    return bundle + page <= WIRE


def last_line(text: str) -> str:
    return (text.strip().splitlines() or ["no reason given"])[-1]


sys.exit(main())
