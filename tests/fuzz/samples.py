"""What a campaign damages: small checkpoints, bundles and files that are as they should be, each made once."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

import edgeqkv
from edgeqkv.bundle.bundle import Bundle
from edgeqkv.checkpoints.synthetic import random_checkpoint
from edgeqkv.model.variants import Variant
from edgeqkv.run.session import open_bundle

__all__ = ["DATA", "Samples", "make"]

DATA = Path(__file__).parents[1] / "data" / "checkpoints"
TINY = {"n_layer": 1, "n_embd": 32, "n_head": 2, "n_positions": 24, "vocab_size": 64}
VARIANTS = ("qkv", "q-k=v", "q=k-v", "q=k=v", "q-k=v+mqa")
ENCODERS = ("encoder_reverse_qvv3", "vit_digits_q_ne_k_eq_v")


@dataclass
class Samples:
    """Where they lie, and what is in them.

    Attributes:
        folder: of all.
        checkpoints: dicts, as training scripts save them.
        decoders: bundles of a language model, one a target.
        encoders: bundles of encoders: of tokens, and of images.
        images, arrays: files for the latter, by name.
    """

    folder: Path
    checkpoints: list[dict[str, Any]] = field(default_factory=list)
    decoders: list[Path] = field(default_factory=list)
    encoders: list[Path] = field(default_factory=list)
    images: dict[str, bytes] = field(default_factory=dict)
    arrays: dict[str, bytes] = field(default_factory=dict)

    @property
    def model(self) -> Path:
        return self.folder / "model.pt"

    @property
    def safetensors(self) -> Path:
        return self.folder / "model.safetensors"

    @property
    def tokenizer(self) -> Path:
        return self.folder / "words" / "tokenizer.json"


def make(folder: Path, targets: Sequence[str]) -> Samples:
    """Write all of them below a folder; bundles of the named targets that are there already are taken as they are."""
    torch.set_num_threads(1)
    samples = Samples(folder, [random_checkpoint(Variant.parse(each), std=0.2, **TINY) for each in VARIANTS])
    samples.checkpoints += [torch.load(DATA / f"{each}.pt", weights_only=True) for each in ENCODERS]
    (folder / "words").mkdir(exist_ok=True)
    torch.save(samples.checkpoints[1], samples.model)
    save_file(dict(samples.checkpoints[1]["model_state_dict"]), samples.safetensors)
    samples.tokenizer.write_text(json.dumps(tokenizer()))
    for target in targets:
        samples.decoders.append(folder / f"decoder-{target}")
        if not samples.decoders[-1].exists():
            edgeqkv.export(
                edgeqkv.load(samples.model),
                target,
                out=samples.decoders[-1],
                tokenizer=samples.tokenizer,
                chunk=8,
                verify=target == "onnx",  # which leaves a proof
            )
    for name in ENCODERS:
        samples.encoders.append(folder / name)
        if not samples.encoders[-1].exists():
            pixels = {"mean": (0.5,), "std": (0.25,)} if name.startswith("vit") else {}
            edgeqkv.export(edgeqkv.load(DATA / f"{name}.pt"), "onnx", out=samples.encoders[-1], verify=False, **pixels)
    for name in targets:
        session = open_bundle(Bundle(folder / f"decoder-{name}"))  # so that forks have imported what it needs
        del session
    samples.images = images()
    samples.arrays = arrays()
    return samples


def tokenizer() -> dict[str, Any]:
    """Of 64 words, split at spaces."""
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": 0, "content": "<|endoftext|>", "single_word": False, "lstrip": False, "rstrip": False}
            | {"normalized": False, "special": True}
        ],
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "Lowercase"}]},
        "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": None,
        "decoder": None,
        "model": {
            "type": "WordLevel",
            "vocab": {"<|endoftext|>": 0, **{f"w{index}": index for index in range(1, 64)}},
            "unk_token": "w1",
        },
    }


def byte_pairs() -> dict[str, Any]:
    """Of bytes, with a merge."""
    characters = [chr(65 + index) for index in range(62)]
    return tokenizer() | {
        "normalizer": None,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        "post_processor": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True},
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "added_tokens": [],
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "vocab": {each: index for index, each in enumerate([*characters, "ab", "abc"])},
            "merges": [["a", "b"], ["ab", "c"]],
        },
    }


def images() -> dict[str, bytes]:
    """A picture in every format that is read, in several modes, and some that are not."""
    grey = Image.fromarray(np.arange(20 * 24, dtype=np.uint8).reshape(20, 24))
    exif = Image.Exif()
    exif[0x0112] = 6
    deep = Image.fromarray((np.arange(400, dtype=np.uint16) * 160).reshape(20, 20))
    kinds: list[tuple[str, Image.Image, dict[str, Any]]] = [
        ("grey.png", grey, {}),
        ("deep.png", deep, {}),
        ("palette.png", grey.convert("P"), {"transparency": 3}),
        ("alpha.png", grey.convert("RGBA"), {}),
        ("turned.jpg", grey.convert("RGB"), {"exif": exif}),
        ("cmyk.jpg", grey.convert("CMYK"), {}),
        ("plain.bmp", grey.convert("RGB"), {}),
        ("plain.gif", grey, {}),
        ("frames.gif", grey, {"save_all": True, "append_images": [grey.rotate(90), grey.rotate(180)]}),
        ("plain.webp", grey.convert("RGB"), {"lossless": True}),
        ("deep.tiff", deep, {}),
        ("packed.tiff", grey, {"compression": "tiff_lzw"}),
        ("float.tiff", grey.convert("F"), {}),
        ("plain.ppm", grey.convert("RGB"), {}),
        ("plain.eps", grey.convert("RGB"), {}),
        ("plain.ico", grey.resize((16, 16)), {}),
        ("plain.pdf", grey, {}),
    ]
    found = {}
    for name, picture, options in kinds:
        stream = io.BytesIO()
        picture.save(stream, {"jpg": "JPEG", "tif": "TIFF"}.get(name[-3:], name.rpartition(".")[2].upper()), **options)
        found[name] = stream.getvalue()
    return found


def arrays() -> dict[str, bytes]:
    """The inputs of both encoders, and other arrays."""
    found = {}
    for name in ENCODERS:
        with np.load(DATA / f"{name}.golden.npz") as file:
            found[name] = _saved(file["input"][:2])
    found["floats"] = _saved(np.linspace(-1, 1, 64))
    found["fortran"] = _saved(np.asfortranarray(np.ones((2, 3, 4), np.float16)))
    found["text"] = _saved(np.array(["a", "bc"]))
    found["record"] = _saved(np.zeros(3, [("a", "<i4"), ("b", "<f8")]))
    found["complex"] = _saved(np.ones((1, 10), np.complex64))
    stream = io.BytesIO()
    np.savez(stream, a=np.ones(3), b=np.zeros((2, 2)))
    found["several"] = stream.getvalue()
    return found


def _saved(array: Any) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()
