"""Who may import whom: read off the sources, imports inside functions and for type checkers alone included."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[1]

LAYERS: Final = (
    {"mil"},
    {
        "errors",
        "reading",
        "progress",
        "extras",
        "memory",
        "catalogue",
        "arrays",
        "settings",
        "threads",
        "units",
        "children",
        "disk",
        "process",
    },
    {"model"},
    {"reference"},
    {"checkpoints", "convert", "quantize"},
    {"bundle"},
    {"backends"},
    {"run"},
    {"budget"},
    {"pipeline"},
    {"edgeqkv", "demo"},  # the public API, and what shows it
    {"cli"},
    {"__main__"},
)
"""The parts of edgeqkv from the bottom upwards. Each imports from its own layer and from those below."""

TARGETS: Final = {"onnx", "executorch", "coreml", "hexagon", "ethos"}

NEUTRAL: Final = ("budget", "pipeline", "run", "bundle", "cli")
"""The parts that work with any target, and so name none."""


@cache
def trees() -> dict[str, ast.Module]:
    """The syntax of every module, by its name; a package has the name of its folder."""
    found = {}
    for file in sorted((ROOT / "edgeqkv").rglob("*.py")):
        name = ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        found[name] = ast.parse(file.read_text(encoding="utf-8"), str(file))
    return found


def imported(module: str) -> set[str]:
    """The modules of edgeqkv that one imports, or names in a string to have them imported."""
    return set(_imported(trees()[module])) - {module}


def _imported(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        match node:
            case ast.Import(names):
                yield from (alias.name for alias in names if _is_own(alias.name))
            case ast.ImportFrom(module=str(package), names=names, level=0) if _is_own(package):
                for alias in names:
                    whole = f"{package}.{alias.name}"
                    yield whole if whole in trees() else package
            case ast.ImportFrom(level=level):
                assert level == 0, f"line {node.lineno}: a relative import"
            case ast.Constant(value=str(name)) if name.startswith("edgeqkv.") and name in trees():
                yield name


def _is_own(name: str) -> bool:
    return name.partition(".")[0] == "edgeqkv"


def part(module: str) -> str:
    """``edgeqkv.run.session`` is of ``run``; ``edgeqkv`` itself is a part of its own."""
    return [*module.split("."), "edgeqkv"][1]


def layer(module: str) -> int:
    (found,) = (index for index, parts in enumerate(LAYERS) if part(module) in parts)
    return found


def strings(tree: ast.Module) -> set[str]:
    """Every string in a module but for its documentation."""
    documentation = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    return {
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documentation
    }


def test_every_part_has_a_layer() -> None:
    assert {part(module) for module in trees()} == set().union(*LAYERS)


def test_nobody_imports_from_above() -> None:
    upwards = {(name, other) for name in trees() for other in imported(name) if layer(other) > layer(name)}
    assert upwards == set()


def test_the_evaluator_is_a_library_of_its_own() -> None:
    foreign = {
        (name, other) for name in trees() if part(name) == "mil" for other in imported(name) if part(other) != "mil"
    }
    assert foreign == set()


def test_nothing_imports_itself_by_way_of_others() -> None:
    modules = {name: imported(name) for name in trees()}
    parts: dict[str, set[str]] = {part(name): set() for name in modules}
    for name, others in modules.items():
        parts[part(name)] |= {part(other) for other in others} - {part(name)}
    assert circle(modules) == set()
    assert circle(parts) == set()


def circle(graph: dict[str, set[str]]) -> set[str]:
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return set(error.args[1])
    return set()


def test_what_works_with_every_target_names_none() -> None:
    found = {
        name
        for name, tree in trees().items()
        if part(name) in NEUTRAL and (strings(tree) & TARGETS or any(map(of_one_target, imported(name))))
    }
    assert found == set()


def of_one_target(module: str) -> bool:
    """Whether a module knows one target's format."""
    below = module.split(".")[1:]
    return below[:1] == ["mil"] or (below[:1] == ["backends"] and not TARGETS.isdisjoint(below[1:2]))


def test_private_names_of_other_libraries_are_in_one_place() -> None:
    """`_compat` says what each is for, with which versions it was tried, and what happens without it."""
    found = {name: set(private_names(tree)) for name, tree in trees().items() if "_compat" not in name.split(".")}
    assert {name: private for name, private in found.items() if private} == {}


def private_names(tree: ast.Module) -> Iterator[str]:
    """What others than edgeqkv call private: imported, reached from what is imported, or given as an argument."""
    others = set()
    for node in ast.walk(tree):
        match node:
            case ast.Import(names):
                foreign = {alias.name: alias for alias in names if not _is_own(alias.name)}
            case ast.ImportFrom(module=str(module), names=names) if module != "__future__" and not _is_own(module):
                foreign = {f"{module}.{alias.name}": alias for alias in names}
            case _:
                continue
        others |= {alias.asname or alias.name.partition(".")[0] for alias in foreign.values()}
        yield from (name for name in foreign if any(map(_is_private, name.split("."))))
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(attr=attr) if _is_private(attr) and root(node) in others:
                yield ast.unparse(node)
            case ast.Call(keywords=keywords):
                yield from (key.arg for key in keywords if key.arg is not None and _is_private(key.arg))


def _is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def root(node: ast.expr) -> str:
    """The name with which a chain of attributes begins, if it does with one."""
    while isinstance(node, ast.Attribute):
        node = node.value
    return node.id if isinstance(node, ast.Name) else ""


SHOWN = '''
"""onnx"""
import edgeqkv.run.session, torch
from numpy._core import multiarray as _arrays
def late():
    """coreml"""
    from edgeqkv import budget, load
    from edgeqkv.model.model import Model
    torch._check(_arrays.a._b, _given=late._own)
    return f"edgeqkv.mil.package", "executorch"
'''


def test_the_contract_sees_late_imports_and_strings_but_not_documentation() -> None:
    tree = ast.parse(SHOWN)
    assert set(_imported(tree)) == {
        "edgeqkv.run.session",
        "edgeqkv.budget",
        "edgeqkv",
        "edgeqkv.model.model",
        "edgeqkv.mil.package",
    }
    assert strings(tree) & TARGETS == {"executorch"}
    assert set(private_names(tree)) == {"numpy._core.multiarray", "torch._check", "_given", "_arrays.a._b"}
    with pytest.raises(AssertionError, match="relative"):
        set(_imported(ast.parse("from . import package")))
