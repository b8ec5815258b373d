"""Ways to damage things, whatever they are for: bytes, trees of JSON or YAML, numbers, names.

Everything is drawn from a `random.Random`, so that a seed says it all.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from random import Random
from typing import Any

__all__ = [
    "NAMES",
    "changed_bytes",
    "changed_text",
    "changed_tree",
    "hostile",
    "json_text",
    "name",
    "sometimes",
    "text",
]

NUMBERS = (
    0,
    1,
    -1,
    2,
    3,
    7,
    255,
    256,
    2**15,
    2**31 - 1,
    2**31,
    2**32,
    2**53,
    2**63 - 1,
    2**63,
    2**64,
    10**30,
    -(2**63),
)
FLOATS = (0.0, -0.0, 0.5, -1.5, 1e-320, 1e-45, 1e38, 1e308, math.nan, math.inf, -math.inf)
TEXTS = (
    "", " ", "0", "-1", "1e999", "null", "nan", "true", "int4", "fp16", "tokens", "end", "../x", "/etc/passwd", "a/b",
    ".", "..", "x" * 300, "x" * 5000, "a\0b", "\ud800", "\u202eevil", "[bold]x[/bold]", "[/]",
    "\x1b[2J\x1b]0;x\x07", "a\nb",
    "{}", "%s%n", "é", "\U0001f600", "<script>", "C:\\x", "con", "--help", "-", "'; touch x; '", "$(touch x)",
)  # fmt: skip
NAMES = (
    "",
    ".",
    "..",
    "x" * 300,
    "a\0b",
    "x/y",
    "nowhere/x",
    "-",
    "--",
    "[red]",
    "\udcff",
    "a b",
    "/dev/null",
    "/dev/full",
)

MOST_BYTES = 1 << 20


def sometimes(random: Random, share: float) -> bool:
    return random.random() < share


def name(random: Random) -> str:
    """A file's name that nobody chose well."""
    return random.choice(NAMES)


def text(random: Random, like: object = None) -> str:
    """A hostile value as text of a bearable length."""
    value = hostile(random, like)
    return "9" * 300 if isinstance(value, int) and abs(value) >= 2**1000 else str(value)[:400]


def hostile(random: Random, like: object = None) -> Any:
    """A value for the place of another, now and then of the same kind."""
    if isinstance(like, bool):
        return random.choice([not like, int(like), None, "true", *NUMBERS[:3]])
    if isinstance(like, int) and abs(like) < 2**64 and sometimes(random, 0.6):
        return random.choice([like + 1, like - 1, -like, like * 2, like // 2, like * 1000, float(like), *NUMBERS])
    if isinstance(like, float) and sometimes(random, 0.6):
        return random.choice([-like, like * 1e6, like / 1e6, *FLOATS])
    if isinstance(like, str) and like and sometimes(random, 0.5):
        return random.choice([like[:-1], like + like, like.upper(), like + "\0", f"../{like}", f"./{like}", like[::-1]])
    kinds: list[Callable[[], Any]] = [
        lambda: random.choice(NUMBERS),
        lambda: random.choice(FLOATS),
        lambda: random.choice(TEXTS),
        lambda: random.choice((None, True, False)),
        lambda: random.choice(([], {}, [[]], {"": {}}, [None] * 100, {"a": 1}, [0] * 5)),
        lambda: nested(random.choice((5, 50, 400))),
        lambda: 10 ** random.choice((400, 5000)),
    ]
    return random.choices(kinds, [6, 4, 6, 3, 4, 1, 0.3])[0]()


def nested(depth: int) -> Any:
    value: Any = 0
    for index in range(depth):
        value = [value] if index % 2 else {"x": value}
    return value


def changed_tree(random: Random, tree: Any, changes: int | None = None) -> Any:
    """A copy of nested dicts and lists with a few places changed."""
    tree = copy.deepcopy(tree)
    for _ in range(changes or random.choice((1, 1, 1, 2, 3, 8))):
        places = _places(tree)
        if not places or sometimes(random, 0.01):
            return hostile(random, tree)
        holder, key = random.choice(places)
        _change(random, holder, key, places)
    return tree


def _places(tree: Any) -> list[tuple[Any, Any]]:
    """Every place in a tree that holds something: its holder and its key."""
    places, left = [], [tree]
    while left:
        node = left.pop()
        if isinstance(node, dict | list):
            for key in list(node) if isinstance(node, dict) else range(len(node)):
                places.append((node, key))
                left.append(node[key])
    return places


def _change(random: Random, holder: Any, key: Any, places: list[tuple[Any, Any]]) -> None:
    match random.choice(("set", "set", "set", "set", "drop", "add", "rename", "double", "swap", "wrap")):
        case "drop":
            del holder[key]
        case "add" if isinstance(holder, dict):
            holder[random.choice(TEXTS)] = hostile(random)
        case "rename" if isinstance(holder, dict):
            holder[random.choice((f"{key}x", str(key).upper(), *TEXTS))] = holder.pop(key)
        case "add" | "rename" | "double" if isinstance(holder, list):
            holder.insert(key, copy.deepcopy(holder[key]))
        case "swap":
            other, at = random.choice(places)
            if isinstance(other, dict | list) and (at in other if isinstance(other, dict) else at < len(other)):
                holder[key] = copy.deepcopy(other[at])
        case "wrap":
            holder[key] = random.choice(([holder[key]], {"x": holder[key]}))
        case _:
            holder[key] = hostile(random, holder[key])


def changed_bytes(random: Random, content: bytes) -> bytes:
    """Flipped, cut, doubled, filled with zeros: what disks, networks and people do to files."""
    data = bytearray(content)
    for _ in range(random.choice((1, 1, 2, 4, 32))):
        at = random.randrange(len(data) + 1)
        if sometimes(random, 0.5):  # where formats have their headers
            at = min(at, random.randrange(256))
        count = random.choice((1, 2, 4, 8, 64, 1024))
        match random.choice(("flip", "flip", "set", "cut", "cut out", "double", "zero", "insert")):
            case "flip" if at < len(data):
                data[at] ^= 1 << random.randrange(8)
            case "set" if at + 8 < len(data):
                number = random.choice(NUMBERS) & (2**64 - 1)
                size = random.choice((1, 2, 4, 8))
                data[at : at + size] = number.to_bytes(8, random.choice(("little", "big")))[:size]
            case "cut":
                del data[at:]
            case "cut out":
                del data[at : at + count]
            case "double":
                data[at:at] = data[at : at + count]
            case "zero":
                data[at : at + count] = bytes(len(data[at : at + count]))
            case _:
                data[at:at] = random.randbytes(count)
    return bytes(data[: MOST_BYTES + len(content)])


def json_text(random: Random, value: Any) -> bytes:
    """A value as JSON, as others write it: NaN allowed, at times with what is none at all."""
    try:
        text = json.dumps(value, ensure_ascii=sometimes(random, 0.7)).encode("utf-8", "surrogatepass")
    except ValueError:  # more digits than Python writes
        text = b'{"x": 1' + b"0" * 6000 + b"}"
    return changed_text(random, text) if sometimes(random, 0.12) else text


def changed_text(random: Random, text: bytes) -> bytes:
    """A text that is hardly one any more."""
    match random.choice(("bytes", "bytes", "bom", "utf-16", "latin", "deep", "twice", "empty", "digits")):
        case "bom":
            return b"\xef\xbb\xbf" + text
        case "utf-16":
            return text.decode("utf-8", "replace").encode("utf-16")
        case "latin":
            return text + b"\xff\xe9"
        case "deep":
            return random.choice((b"[", b'{"a":', b"- ", b"? ")) * random.choice((100, 5000, 100_000))
        case "twice":
            return text + text
        case "empty":
            return b""
        case "digits":
            return text.replace(b"1", b"1" * 5000, 1)
        case _:
            return changed_bytes(random, text)
