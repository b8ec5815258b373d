"""Command lines: any command with any of its options, and values that were meant, mistaken or malicious."""

from __future__ import annotations

from functools import cache
from random import Random
from typing import Any

import typer
from mutations import NAMES, sometimes, text
from samples import Samples
from trial import Case

from edgeqkv.cli.app import app

__all__ = ["any_arguments"]

VALUES = {
    "--target": ("onnx", "onnx,onnx", "nothing", ""),
    "--form": ("portable", "static", "genai", "conv"),
    "--weights": ("int4", "int8", "fp16", "fp32", "lut4"),
    "--keep-head": ("int8", "fp16", "fp32"),
    "--state": ("fp32", "fp16", "int8"),
    "--variant": ("q-k=v", "qk_v", "qkv+gqa4", "q=k=v+2d", "+gqa", "q-k=v+gqa0"),
    "--context": ("8", "24", "25", "1"),
    "--chunk": ("1", "8", "24"),
    "--tokenizer": ("words.json", "model.pt", "text.txt"),
    "--text": ("text.txt", "model.pt", "x.npy"),
    "--calibrate": ("text.txt", "words.json"),
    "--prompt": ("w1 w2", "", "\x1b[2J", "\udcff"),
    "--eos": ("w3", "5", "64", "-1", "nothing"),
    "--seed": ("7",),
    "--temperature": ("0.5", "1e-320", "1e308"),
    "--top-k": ("3", "1000000"),
    "--top-p": ("0.5", "1e-30"),
    "--max-tokens": ("2", "100"),
    "--device": ("pixel-9-pro", "iphone-16", "hexagon-v75", "raspberry-pi-5-8gb"),
    "--recipe": ("pixel-9-pro", "iphone-15", "text.txt", "own.yaml"),
    "--devices": ("text.txt", "words.json"),
    "--compare": ("text.txt", "words.json", "bundle/manifest.json"),
    "--html": ("page.html", "model.pt", "bundle/manifest.json", "bundle"),
    "--out": ("new", "bundle", "model.pt", "."),
    "--input": ("x.npy", "model.pt", "text.txt"),
    "--engine": ("onnxruntime", "cpu", "evaluator"),
    "--against": ("model.pt", "x.npy"),
    "--mean": ("0.5", "0.5,0.5,0.5", "nan", ","),
    "--std": ("0.5", "0", "1e-320"),
    "--heads": ("2", "0"),
    "--batch": ("2",),
    "--tune": ("0", "1"),
    "--max-degradation": ("100", "0"),
    "--fill": ("4", "20", "0"),
    "--to": ("q-k=v", "q-k=v+mqa", "nothing"),
}
SLOW = {"verify": 0.03, "bench": 0.02, "demo": 0.02, "compare": 0.3}
"""Commands that start processes, and how often they may."""


def any_arguments(random: Random, samples: Samples) -> Case:
    """One command line for a folder with a model, a bundle, a tokenizer, a text and an array in it."""
    commands = _commands()
    name = random.choice([each for each in commands if sometimes(random, SLOW.get(each, 1.0))] or ["inspect"])
    subjects = {
        "inspect": "model.pt",
        "export": "model.pt",
        "generate": "bundle",
        "verify": "bundle",
        "bench": "bundle",
        "compare": "bundle",
    }
    subject = subjects.get(name) or {"budget": "bundle", "run": str(samples.encoders[0])}.get(name)
    given = [name] if sometimes(random, 0.98) else [random.choice((*NAMES, "exports"))]
    if subject and sometimes(random, 0.95):
        given.append(subject if sometimes(random, 0.85) else random.choice((*NAMES, "model.pt", "bundle", "x.npy")))
    needed = {"generate": ["--prompt", "w1 w2"], "run": ["--input", "x.npy"], "export": ["--no-verify"]}
    if name == "bench":
        needed[name] = ["-n", "2", "-p", "4", "-r", "1", "--rounds", "1"]
    given += needed.get(name, []) if sometimes(random, 0.95) else []
    outs = []
    for option in random.sample(commands[name], min(len(commands[name]), random.choice((0, 1, 1, 2, 3)))):
        outs += _add(random, given, option)
    if name in ("export", "demo") and not outs:
        outs = ["new"]
        given += ["--out", "new"]
    if sometimes(random, 0.05):
        given.insert(random.randrange(len(given) + 1), random.choice(NAMES))
    if sometimes(random, 0.4) and name != "demo":
        given.append("--json")
    cleaned = [each.replace("\0", "\\0") if sometimes(random, 0.5) else each.partition("\0")[0] for each in given]
    kept = [f"{each}.quantized.npz" for each in outs] if "--calibrate" in given else []  # of an export that fails
    may_write = {each for each in (*outs, *kept, "build") if each not in ("", ".", "..", "model.pt")}
    return Case(cleaned, may_write)


def _add(random: Random, given: list[str], option: Any) -> list[str]:
    """Put one option on a command line; what it says may be written."""
    flag = random.choice(option.opts)
    long = max(option.opts, key=len)
    if flag in ("--install-completion", "--show-completion", "--measure", "--verify"):
        return []
    if option.is_flag:
        given.append(random.choice([*option.opts, *option.secondary_opts]) if long != "--verify" else "--no-verify")
        return []
    value = random.choice(VALUES.get(long, ("1",)))
    if sometimes(random, 0.4):
        value = random.choice((*NAMES, text(random, 3)))
    if long == "--tune" and value not in VALUES[long]:
        value = "-1"
    if long == "--out" and value.startswith(("/", "..")):  # nothing outside of the place is any case's
        value = "nowhere/x"
    given += [flag, value] if sometimes(random, 0.8) or not flag.startswith("--") else [f"{flag}={value}"]
    return [value.partition("/")[0]] if long in ("--out", "--html") else []


@cache
def _commands() -> dict[str, list[Any]]:
    """The commands, and the options of each."""
    group: Any = typer.main.get_command(app)
    return {
        name: [each for each in command.params if getattr(each, "opts", [""])[0].startswith("-")]
        for name, command in group.commands.items()
    }
