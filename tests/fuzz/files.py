"""Files that are wrong as files: archives, headers, texts, and what is no file at all."""

from __future__ import annotations

import hashlib
import json
import os
import tarfile
import warnings
import zipfile
from pathlib import Path
from random import Random
from typing import Any

import yaml
from mutations import NAMES, changed_bytes, changed_text, changed_tree, json_text, sometimes

__all__ = ["change_zip", "npy_header", "seal", "something_else", "yaml_text"]


def seal(folder: Path) -> None:
    """Write into a manifest the checksums of the files as they are now, as whoever changed them on purpose does."""
    path = folder / "manifest.json"
    content = json.loads(path.read_text())
    for each in sorted(folder.rglob("*")):
        if each.is_file() and each != path:
            data = each.read_bytes()
            card = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            content["files"][each.relative_to(folder).as_posix()] = card
    path.write_text(json.dumps(content))


def yaml_text(random: Random, value: Any) -> bytes:
    try:
        text = yaml.safe_dump(value, allow_unicode=True).encode("utf-8", "surrogatepass")
    except (yaml.YAMLError, ValueError, RecursionError):
        return json_text(random, value)
    if sometimes(random, 0.05):
        text += b"\na: &x [1, 2]\nb: [*x, *x]\n"
    return changed_text(random, text) if sometimes(random, 0.15) else text


def npy_header(random: Random) -> bytes:
    """The header of an .npy file of 128 bytes, wrong somewhere."""
    descr = random.choice(("<f4", "<f8", "|O", "<i8", ">i2", "<U999999", "|V8", "<f2", "<M8", "xx", "", "<c16", "|b1"))
    shapes = ((2, 10), (10**12,), (-1, 4), (0, 10), (), (2**62, 2**62), (1, 1, 1, 1, 1), (True,), ("a",), (2.5,))
    header: dict[Any, Any] = {"descr": descr, "fortran_order": False, "shape": random.choice(shapes)}
    if sometimes(random, 0.3):
        header = changed_tree(random, header)
    text = repr(header).encode("utf-8", "replace")[:116]
    return b"\x93NUMPY" + bytes([random.choice((1, 1, 1, 2, 3, 9)), 0]) + b"v\x00" + text.ljust(117) + b"\n"


def change_zip(random: Random, path: Path) -> None:
    """The same records but for one, with right checksums, or in another order or packing."""
    with zipfile.ZipFile(path) as whole:
        records = [(name, whole.read(name)) for name in whole.namelist()]
    at = random.randrange(len(records))
    name, data = records[at]
    match random.choice(("drop", "change", "rename", "twice", "swap", "add", "shuffle")):
        case "drop":
            del records[at]
        case "change":
            records[at] = (name, changed_bytes(random, data))
        case "rename":
            records[at] = (random.choice((name.upper(), "../evil", "/etc/evil", "x" * 300, "model/data.pkl")), data)
        case "twice":
            records.append((name, changed_bytes(random, data)))
        case "swap":
            other = random.randrange(len(records))
            records[at], records[other] = (name, records[other][1]), (records[other][0], data)
        case "add":
            records.append((random.choice(("model/constants.pkl", "model/byteorder", "model/version")), b"big"))
        case _:
            random.shuffle(records)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        packing = random.choice((zipfile.ZIP_STORED,) * 9 + (zipfile.ZIP_DEFLATED,))
        with zipfile.ZipFile(path, "w", packing) as other:
            for name, data in records:
                other.writestr(name, data)


def something_else(random: Random, path: Path) -> None:
    """Something of this name that is no such file."""
    path.unlink(missing_ok=True)
    match random.choice(
        ("empty", "random", "pointer", "folder", "pipe", "dangling", "self", "tar", "text", "forbidden")
    ):
        case "empty":
            path.write_bytes(b"")
        case "random":
            path.write_bytes(random.randbytes(random.choice((1, 10, 1000))))
        case "pointer":
            path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n")
        case "folder":
            path.mkdir()
            (path / "config.json").write_bytes(json_text(random, {"architectures": ["X"]}))
        case "pipe":
            os.mkfifo(path)
        case "dangling":
            path.symlink_to("nowhere")
        case "self":
            path.symlink_to(path.name)
        case "tar":
            with tarfile.open(path, "w") as tar:
                tar.addfile(tarfile.TarInfo("data.pkl"))
        case "forbidden":
            path.write_bytes(b"x")
            path.chmod(0)
        case _:
            path.write_text(random.choice(NAMES[:4]) + '{"a": 1}')
