"""The demo's ONNX bundles on emulated arm64 cores of phones: the same tokens as here, and how close the logits are."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from emulator import Emulator, prepare

from device_tests.debian import Unavailable
from device_tests.suite import WORK, Difference, export_demo, greedy, prompt_ids, skip

BUNDLES: Final = {
    "fp32": {"weights": "fp32"},
    "int8": {"weights": "int8"},
    "int4": {"weights": "int4"},
    "ort-int8-state": {"weights": "int4", "form": "ort", "state": "int8"},
}

CORES: Final = {"cortex-a76": ("exact", "onnxruntime"), "cortex-a710": ("onnxruntime",)}
"""Cores of phones, and the engines to run there. The first multiplies integers by dot products (phones since 2018), the
second by matrix instructions too (since 2022); ONNX Runtime has kernels for each."""

ROUNDING: Final = 1e-4
"""Of float32 sums in another order. 3e-5 was measured, at logits of up to 18."""

CODES: Final = 0.02
"""Of the largest logit, for an int8 state: rounding can put a number on the other side of the middle between two codes,
as it can between an export and its original (docs/onnx.md)."""

ACTIVATIONS: Final = 0.06
"""Of the largest logit, for quantized weights in the default engine (``accuracy_level`` 4), which rounds activations to
8 bits too: a row at once or block by block, as the core's kernel has it, so processors differ. 0.025 was measured.
ExecuTorch's kernels, which always round them, are held to the same bound."""

Logits = npt.NDArray[np.float32]


def allowed(bundle: str, engine: str, reference: Logits) -> float:
    """The largest difference of a logit that is no error."""
    largest = float(np.abs(reference).max())
    if bundle != "fp32" and engine == "onnxruntime":
        return ACTIVATIONS * largest
    return CODES * largest if BUNDLES[bundle].get("state") == "int8" else ROUNDING


def run_emulated(emulator: Emulator, core: str, bundles: dict[str, Path], prompt: list[int]) -> dict[str, Logits]:
    """Logits of every bundle and engine, by ``NAME.ENGINE``."""
    out = WORK / "arm64" / f"{core}.npz"
    program = Path(__file__).with_name("follow.py")
    emulator.run(core, [program, out, ",".join(map(str, prompt)), ",".join(CORES[core]), *bundles.values()])
    with np.load(out) as saved:
        runs = dict(saved)
    machine = str(runs.pop("machine"))
    assert machine == "aarch64", machine
    return runs


def main() -> int:
    try:
        emulator = prepare()
    except Unavailable as error:
        skip(str(error))
    bundles = {name: export_demo(f"arm64/{name}", **options) for name, options in BUNDLES.items()}
    prompt = prompt_ids()
    passed = True
    for core in CORES:
        for run, found in run_emulated(emulator, core, bundles, prompt).items():
            name, engine = run.split(".")
            reference = greedy(bundles[name], prompt, engine)
            difference = Difference.between(found, reference, allowed(name, engine, reference))
            print(f"{name}, engine {engine}, on {core}: {difference}", flush=True)
            passed = passed and difference.passed
    return 0 if passed else 1


sys.exit(main())
