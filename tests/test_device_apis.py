"""The lists of platform calls: what an app's signatures declare, and what is missing in the list."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def _device_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are no part of the package."""
    monkeypatch.setattr(sys, "path", [str(ROOT), *sys.path])


DECLARED = {
    "A.java": (
        "class A { // not b()\n  public static final int LIMIT = 0;\n  public long total;\n  native int c(int d);\n}",
        {"A", "LIMIT", "total", "c"},
    ),
    "a.kt": (
        "interface A {\n    companion object {\n        val B: A\n    }\n}\nexternal fun <T> A.c(d: T)\nval Int.e: A\n",
        {"A", "B", "c", "e"},
    ),
    "a.swift": (
        "public class A {\n    public class func b(at c: URL) {}\n    var d: Int?\n}\nenum E {\n    case f\n}\n",
        {"A", "b", "d", "E", "f"},
    ),
}


@pytest.mark.parametrize("name", DECLARED)
def test_declarations_are_found(tmp_path: Path, name: str) -> None:
    from device_tests.apis import declared

    text, names = DECLARED[name]
    (tmp_path / name).write_text(text)
    assert names <= declared(tmp_path / name)
    assert "not" not in declared(tmp_path / name)


def test_what_is_not_listed_is_named(tmp_path: Path) -> None:
    from device_tests.apis import unlisted

    signatures, page = tmp_path / "signatures", tmp_path / "APIS.md"
    signatures.mkdir()
    (signatures / "A.kt").write_text("class A {\n    external fun b()\n}\n")
    page.write_text("| A.kt | `A`: `b` | [page](https://example.org) |\n")
    assert unlisted(signatures, page) == []
    page.write_text("| A.kt | `A`, b | page |\n| B.kt | `B` | [page](https://example.org) |\n")
    assert unlisted(signatures, page) == [
        "A.kt: no row of APIS.md says where it was checked",
        "A.kt: b is not listed in APIS.md",
        "APIS.md lists B.kt, which is no file of signatures",
    ]


@pytest.mark.parametrize("app", ["android", "ios"])
def test_every_call_of_the_apps_is_listed(app: str) -> None:
    from device_tests.apis import unlisted

    folder = ROOT / "device_tests" / app
    assert unlisted(folder / "signatures", folder / "APIS.md") == []
