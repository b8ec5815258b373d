"""The kinds of cases: each damages something of the samples, and says which command is to read it."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any, Final

from arguments import any_arguments
from files import change_zip, npy_header, seal, something_else, yaml_text
from mutations import changed_bytes, changed_tree, hostile, json_text, sometimes, text
from samples import Samples, byte_pairs, tokenizer
from tensors import changed_checkpoint, changed_pickle, save
from trial import Case, Place

__all__ = ["KINDS", "SHARES"]

Kind = Callable[[Random, Samples, Place], Case]


def checkpoint(random: Random, samples: Samples, place: Place) -> Case:
    """A .pt: what is in it, its zip, its pickle, its bytes, or something else of that name."""
    path = place.here / random.choice(("model.pt", "model.pt", "model.pth", "m[red].pt"))
    healthy = random.choice(samples.checkpoints)
    match random.choice(("contents", "contents", "contents", "contents", "zip", "pickle", "bytes", "other")):
        case "contents":
            save(changed_checkpoint(random, healthy), path)
        case "zip":
            save(healthy, path)
            change_zip(random, path)
        case "pickle":
            save(healthy, path)
            changed_pickle(random, path, place.canary)
        case "bytes":
            save(healthy, path)
            path.write_bytes(changed_bytes(random, path.read_bytes()))
        case _:
            something_else(random, path)
    return _reads_model(random, path)


def safetensors(random: Random, samples: Samples, place: Place) -> Case:
    """Safetensors: header, bytes, and the config beside them."""
    path = place.here / random.choice(("model.safetensors", "model.safetensors", "model-00001-of-00002.safetensors"))
    content = samples.safetensors.read_bytes()
    size = int.from_bytes(content[:8], "little")
    header, config = json.loads(content[8 : 8 + size]), samples.checkpoints[1]["model_config"]
    match random.choice(("header", "header", "bytes", "config", "config", "other")):
        case "header":
            text = json_text(random, changed_tree(random, header))
            length = len(text) if sometimes(random, 0.9) else hostile(random, len(text))
            length = length if isinstance(length, int) and 0 <= length < 2**64 else 2**64 - 1
            content = length.to_bytes(8, "little") + text + content[8 + size :]
        case "bytes":
            content = changed_bytes(random, content)
        case "config":
            config = changed_tree(random, config)
        case _:
            content = random.choice((b"", b"PK\3\4", b"version https://git-lfs.github.com/spec/v1\n", bytes(100)))
    path.write_bytes(content)
    if sometimes(random, 0.95):
        (place.here / random.choice(("config.json", "model.json"))).write_bytes(json_text(random, config))
    return _reads_model(random, path)


def bundle(random: Random, samples: Samples, place: Place) -> Case:
    """The files of a bundle: bytes, missing ones, links; at times with checksums of what they are now."""
    source = random.choice([*samples.decoders, *samples.encoders])
    folder = place.here / "bundle"
    shutil.copytree(source, folder)
    files = [each for each in sorted(folder.rglob("*")) if each.is_file() and each.name != "manifest.json"]
    for _ in range(random.choice((1, 1, 2))):
        file = random.choice(files)
        match random.choice(("bytes", "bytes", "bytes", "gone", "link", "folder", "other", "new", "swap")):
            case "bytes" if file.is_file():
                file.write_bytes(changed_bytes(random, file.read_bytes()))
            case "gone" if not file.is_dir():
                file.unlink(missing_ok=True)
            case "link" if file.is_file():
                file.rename(place.around / "elsewhere")
                file.symlink_to(place.around / "elsewhere")
            case "folder" if file.is_file():
                file.unlink()
                file.mkdir()
            case "other" if file.is_file():
                something_else(random, file)
            case "new":
                (folder / random.choice(("onnx.proof.npz", "tokenizer.json", "x.py", "a b", "é"))).write_bytes(b"x")
            case _:
                other = random.choice(files)
                if file.is_file() and other.is_file():
                    file.write_bytes(other.read_bytes())
    if sometimes(random, 0.5):
        seal(folder)
    return _reads_bundle(random, samples, folder, source)


def manifest(random: Random, samples: Samples, place: Place) -> Case:
    """A manifest that says something else than the files do."""
    source = random.choice([*samples.decoders, *samples.decoders, *samples.encoders])
    folder = place.here / "bundle"
    shutil.copytree(source, folder)
    path = folder / "manifest.json"
    content = json.loads(path.read_text())
    part = random.choice(("targets", "targets", "targets", "model", "tokenizer", "files", None))
    if part is None or content[part] is None:
        content = changed_tree(random, content)
    else:
        content[part] = changed_tree(random, content[part])
    path.write_bytes(json_text(random, content))
    return _reads_bundle(random, samples, folder, source)


def tokenizers(random: Random, samples: Samples, place: Place) -> Case:
    """A tokenizer, and the files beside it that say which tokens end a text."""
    path = place.here / "tokenizer.json"
    content = random.choice((tokenizer, byte_pairs))()
    if sometimes(random, 0.4):
        step = random.choice(tuple(_STEPS))
        content[step] = random.choice(_STEPS[step])
    if sometimes(random, 0.7):
        content = changed_tree(random, content)
    path.write_bytes(json_text(random, content))
    beside = {
        "tokenizer_config.json": {"eos_token": "w3", "bos_token": {"content": "w2"}, "model_max_length": 24},
        "generation_config.json": {"eos_token_id": [1, 2], "bos_token_id": 0},
        "config.json": {"eos_token_id": 5},
    }
    for name, value in beside.items():
        if sometimes(random, 0.3):
            (place.here / name).write_bytes(json_text(random, changed_tree(random, value)))
    if sometimes(random, 0.15):
        model = place.here / "model.pt"
        shutil.copy(samples.model, model)
        return _json(random, Case(["export", "model.pt", "--no-verify", "--out", "new"], {"new"}))
    return _json(random, _generation(random, samples, samples.decoders[0], ["--tokenizer", str(path)]))


def recipe(random: Random, samples: Samples, place: Place) -> Case:
    """A recipe file."""
    content = {"name": "own", "devices": ["pixel-9-pro"], "target": "onnx", "form": "portable", "weights": "int8"}
    content |= {"state": "fp32", "context": 24, "chunk": 8, "rank": 1, "why": "because"}
    (place.here / "own.yaml").write_bytes(
        yaml_text(random, changed_tree(random, content) if sometimes(random, 0.9) else content)
    )
    return _json(
        random, Case(["export", str(samples.model), "--recipe", "own.yaml", "--no-verify", "--out", "new"], {"new"})
    )


def devices(random: Random, samples: Samples, place: Place) -> Case:
    """A file of the user's own devices."""
    fact = {"value": 4.0, "status": "unknown", "sources": ["https://a.b"], "note": "n"}
    device = {"title": "A", "kind": "phone", "system": "android", "soc": "S", "npu": "mine"}
    sizes = ("ram_gb", "mem_bandwidth_gbs", "process_limit_default_gb", "process_limit_max_gb", "os_reserved_gb")
    npu = {"title": "N", "compute_dtypes": fact | {"value": ["int8", "fp16"]}, "max_tensor_dim": fact | {"value": 9}}
    content = {"devices": {"own": device | dict.fromkeys(sizes, fact)}, "npus": {"mine": npu}}
    content = json.loads(json.dumps(content))  # no place is there twice
    (place.here / "own.yaml").write_bytes(yaml_text(random, changed_tree(random, content)))
    own = ["--devices", "own.yaml"]
    name = random.choice(("own", "own", "mine", "pixel-9-pro"))
    commands = [["devices", *own], ["devices", name, *own]]
    commands += [["budget", str(random.choice([*samples.decoders, *samples.encoders])), *own, "-d", name]] * 2
    return _json(random, Case(random.choice(commands)))


def report(random: Random, samples: Samples, place: Place) -> Case:
    """A device's report on a run of a bundle."""
    source = samples.decoders[0]
    identity = hashlib.sha256((source / "manifest.json").read_bytes()).hexdigest()
    content = {
        "format": 1,
        "date": "2026-11-22T10:30:00+01:00",
        "app": {"name": "edgeqkv-android", "version": "0.1.0"},
        "device": {"name": "Pixel 9 Pro", "processor": "Tensor G4", "ram_bytes": 15_800_000_000},
        "system": {"name": "Android", "version": "16"},
        "runtime": {"name": "onnxruntime", "version": "1.31.0", "settings": "4 threads"},
        "manifest_sha256": identity,
        "target": "onnx",
        "load_seconds": 0.25,
        "prefill": {"tokens": 16, "seconds": 0.4},
        "decode": {"tokens": 8, "seconds": 0.8},
        "state_bytes": 524_288,
        "memory": {
            "figure": "Debug.MemoryInfo.totalPss",
            "before_bytes": 60_000_000,
            "phases": {"load": 84_000_000, "prefill": 92_000_000, "decode": 91_000_000},
            "limit_bytes": None,
        },
    }
    (place.here / "report.json").write_bytes(json_text(random, changed_tree(random, content)))
    html = ["--html", "page.html"] if sometimes(random, 0.2) else []
    return _json(random, Case(["budget", str(source), "--compare", "report.json", *html], {"page.html"}))


def image(random: Random, samples: Samples, place: Place) -> Case:
    """A picture."""
    name = random.choice(tuple(samples.images))
    content = samples.images[name]
    if sometimes(random, 0.7):
        content = changed_bytes(random, content)
    if sometimes(random, 0.2):
        name = random.choice(("x.png", "x.jpg", "x", "x.npy", "x.eps", "x.svg"))
    (place.here / name).write_bytes(content)
    return _json(random, Case(["run", str(samples.encoders[1]), "--input", name]))


def array(random: Random, samples: Samples, place: Place) -> Case:
    """An .npy or .npz: its header, its numbers, its bytes."""
    source = random.choice(samples.encoders)
    content = samples.arrays[source.name if sometimes(random, 0.7) else random.choice(tuple(samples.arrays))]
    match random.choice(("bytes", "bytes", "numbers", "numbers", "header", "header", "as it is", "other")):
        case "bytes":
            content = changed_bytes(random, content)
        case "numbers":
            content = content[:128] + changed_bytes(random, content[128:])
            content = content.ljust(len(samples.arrays[source.name]), b"\0")
        case "header":
            content = npy_header(random) + content[128:]
        case "other":
            content = random.choice((b"", b"\x93NUMPY", b"\x80\x02}.", b"cposix\nsystem\n(S'x'\ntR."))
    name = random.choice(("x.npy", "x.npy", "x.NPY", "x.npz"))
    (place.here / name).write_bytes(content)
    return _json(random, Case(["run", str(source), "--input", name]))


def arguments(random: Random, samples: Samples, place: Place) -> Case:
    """Any command with any options, some of them meant."""
    shutil.copy(samples.model, place.here / "model.pt")
    shutil.copy(samples.tokenizer, place.here / "words.json")
    (place.here / "text.txt").write_text("w1 w2 w3 w4 w5 w6 w7 w8 " * 20)
    (place.here / "x.npy").write_bytes(samples.arrays["encoder_reverse_qvv3"])
    shutil.copytree(samples.decoders[0], place.here / "bundle")
    return any_arguments(random, samples)


KINDS: Final[dict[str, Kind]] = {
    "checkpoint": checkpoint,
    "safetensors": safetensors,
    "bundle": bundle,
    "manifest": manifest,
    "tokenizer": tokenizers,
    "recipe": recipe,
    "devices": devices,
    "report": report,
    "image": image,
    "array": array,
    "arguments": arguments,
}

SHARES: Final = dict(zip(KINDS, (20, 8, 10, 16, 10, 5, 6, 3, 7, 5, 10), strict=True))
"""Of a hundred cases, so many are of each kind."""

_STEPS: Final[dict[str, list[Any]]] = {
    "truncation": [{"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}],
    "padding": [
        {"strategy": {"Fixed": 9}, "direction": "Left", "pad_to_multiple_of": None, "pad_id": 1, "pad_type_id": 0}
        | {"pad_token": "w1"}
    ],
    "normalizer": [
        {"type": "Replace", "pattern": {"Regex": "(a+)+$"}, "content": "b"},
        {"type": "Replace", "pattern": {"String": ""}, "content": "xx"},
        {"type": "Prepend", "prepend": "_"},
        {"type": "Precompiled", "precompiled_charsmap": "AAAA"},
        {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "strip_accents": None}
        | {"lowercase": True},
    ],
    "pre_tokenizer": [
        {"type": "Split", "pattern": {"Regex": "("}, "behavior": "Removed", "invert": False},
        {"type": "Split", "pattern": {"String": "w"}, "behavior": "Isolated", "invert": True},
        {"type": "Metaspace", "replacement": "_", "prepend_scheme": "always", "split": True},
        {"type": "FixedLength", "length": 0},
        {"type": "Digits", "individual_digits": True},
    ],
    "post_processor": [
        {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "w1", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [],
            "special_tokens": {"w1": {"id": "w1", "ids": [1, 99999], "tokens": ["w1", "x"]}},
        },
        {"type": "RobertaProcessing", "sep": ["x", 700], "cls": ["y", 2**32 - 1], "trim_offsets": True}
        | {"add_prefix_space": True},
    ],
    "decoder": [
        {"type": "WordPiece", "prefix": "##", "cleanup": True},
        {"type": "Strip", "content": "w", "start": 5, "stop": 5},
        {"type": "CTC", "pad_token": "<pad>", "word_delimiter_token": "|", "cleanup": True},
        {"type": "ByteFallback"},
        {"type": "Replace", "pattern": {"Regex": "."}, "content": "yy"},
    ],
    "added_tokens": [
        [
            {"id": 70_000, "content": "w1", "single_word": False, "lstrip": True, "rstrip": True}
            | {"normalized": True, "special": False}
        ],
        [{"id": 0, "content": "", "single_word": True, "lstrip": False, "rstrip": False, "normalized": False}],
    ],
    "model": [
        {"type": "Unigram", "unk_id": 9, "vocab": [["a", -1.0], ["b", float("inf")]], "byte_fallback": True},
        {"type": "WordPiece", "unk_token": "zz", "continuing_subword_prefix": "##", "max_input_chars_per_word": 1}
        | {"vocab": {"a": 0, "##b": 1}},
        {"type": "BPE", "vocab": {"a": 0, "b": 2**32 - 1}, "merges": ["a c"]},
        {"type": "WordLevel", "vocab": {}, "unk_token": "u"},
        {"type": "WordLevel", "vocab": {"w1": 5000, "w2": 5000}, "unk_token": "w1"},
    ],
}


def _reads_model(random: Random, path: Path) -> Case:
    name = path.name
    commands: list[Case] = [Case(["inspect", name])] * 6 + [Case(["budget", name])] * 2
    commands += [Case(["export", name, "--out", "new", "--no-verify"], {"new"})] * 4
    case = random.choice(commands)
    more = random.choice(([], [], [], [], ["--ema"], ["--heads", text(random, 2)]))
    if case.arguments[0] != "budget":
        case = Case([*case.arguments, *more], case.may_write)
    return _json(random, case)


def _reads_bundle(random: Random, samples: Samples, folder: Path, source: Path) -> Case:
    if sometimes(random, 0.01):
        return _json(random, Case(["verify", folder.name]))
    if sometimes(random, 0.25):
        return _json(random, Case(["budget", folder.name]))
    if source in samples.decoders:
        return _json(random, _generation(random, samples, Path(folder.name), []))
    name = "x.png" if sometimes(random, 0.3) and source == samples.encoders[1] else "x.npy"
    given = samples.images["grey.png"] if name == "x.png" else samples.arrays[source.name]
    (folder.parent / name).write_bytes(given)
    return _json(random, Case(["run", folder.name, "--input", name]))


def _generation(random: Random, samples: Samples, folder: Path, more: list[str]) -> Case:
    prompt = random.choice(("w1 w2", "w1 w2 w3 w4 w5 w6 w7 w8 w9", "w1 " * 20, "é\U0001f600", "", "abc ab"))
    count = ["-n", random.choice(("1", "3", "30"))] if sometimes(random, 0.9) else []
    return Case(["generate", str(folder), "--prompt", prompt, *count, *more])


def _json(random: Random, case: Case) -> Case:
    return Case([*case.arguments, "--json"], case.may_write) if sometimes(random, 0.5) else case
