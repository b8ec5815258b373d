"""Commands that are given, from inside of it, a bundle with code in its folder: none of it runs."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import DATA, read_encoder_golden
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

import edgeqkv

# What the commands and the processes that they start import: of the standard library, of others, and of Python's own
# start (sitecustomize). Python itself looks for pkgutil and what that needs before edgeqkv is asked anything.
MODULES = """
__future__ typing numpy json torch onnxruntime onnx onnx_ir tokenizers pydantic typer rich yaml jinja2 safetensors
coremltools executorch torchao google ml_dtypes hashlib subprocess tempfile threading struct mmap ctypes zipfile
logging random signal socket dataclasses pathlib shutil platform uuid decimal datetime csv ast inspect email
sitecustomize usercustomize edgeqkv_coremltools_proto
"""


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a language model's bundle and an encoder's."""
    folder = tmp_path_factory.mktemp("exported")
    vocabulary = {f"w{index}": index for index in range(257)}
    Tokenizer(WordLevel(vocabulary, unk_token="w0")).save(str(folder / "tokenizer.json"))
    decoder = edgeqkv.load(DATA / "k_eq_v_gqa.pt")
    edgeqkv.export(decoder, "onnx", out=folder / "decoder", tokenizer=folder / "tokenizer.json", chunk=8)
    encoder = read_encoder_golden("encoder_reverse_qkv")
    edgeqkv.export(edgeqkv.load(encoder.path), "onnx", out=folder / "encoder", verify=False)
    np.save(folder / "encoder" / "input.npy", encoder.inputs[:1])
    return folder


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [
        ("decoder", ["verify", "."]),
        ("decoder", ["generate", ".", "--prompt", "w1 w2", "-n", "3"]),
        ("encoder", ["run", ".", "--input", "input.npy"]),
        ("decoder", ["budget", ".", "--measure"]),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else value,
)
def test_no_code_from_the_current_folder_is_run(
    exported: Path, tmp_path: Path, kind: str, arguments: list[str]
) -> None:
    if "--measure" in arguments and sys.platform != "linux":
        pytest.skip("memory is measured on Linux")
    here, ran = tmp_path / "bundle", tmp_path / "ran"
    shutil.copytree(exported / kind, here)
    ran.mkdir()
    for name in MODULES.split():
        (here / f"{name}.py").write_text(
            f"import os\nos.close(os.open({str(ran / name)!r}, os.O_CREAT))\nraise ImportError\n"
        )
    done = subprocess.run(
        [sys.executable, "-m", "edgeqkv", *arguments, "--json"], cwd=here, capture_output=True, text=True, check=False
    )
    assert list(ran.iterdir()) == []
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)
