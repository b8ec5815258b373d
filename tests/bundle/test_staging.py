"""A bundle appears whole or not at all, replaces the files that its forerunner lists, and touches nothing else."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from edgeqkv import BundleError
from edgeqkv.bundle import staging as staging_module
from edgeqkv.bundle.manifest import ModelCard
from edgeqkv.bundle.staging import Staged, staged
from edgeqkv.disk import atomic

CARD = ModelCard(kind="decoder", variant="qkv", parameters=0, config={}, source={}, notes=())

EXTENSION = {"manifest_version": 3, "name": "Dark reader", "version": "4.9", "files": {"manifest.json": {}}}

SYSTEMS = pytest.mark.parametrize(
    "system", ["renameat2", "plain renames"], ids=["as the system can", "without its help"]
)


@pytest.fixture(autouse=True)
def _system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if getattr(request.node, "callspec", None) and request.node.callspec.params.get("system") == "plain renames":
        monkeypatch.setattr(atomic, "_system_call", lambda how: None)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A bundle, in a folder of its own."""
    (tmp_path / "build").mkdir()
    path = tmp_path / "build" / "phone"
    write(path, "old")
    return path


def fill(staging: Staged, content: str) -> None:
    package = staging.path / "model.mlpackage" / "Data"
    package.mkdir(parents=True)
    (package / "weights.bin").write_text(content)
    (staging.path / "model.onnx").write_text(content)
    staging.write_manifest("0", CARD, None, {})


def write(path: Path, content: str, *, overwrite: bool = False) -> None:
    with staged(path, overwrite=overwrite) as staging:
        fill(staging, content)


def write_while(path: Path, meanwhile: Callable[[], object], *, overwrite: bool = True) -> None:
    with staged(path, overwrite=overwrite) as staging:
        fill(staging, "new")
        meanwhile()


def made(path: Path, content: str) -> None:
    """A bundle that is there at once."""
    path.mkdir()
    fill(Staged(path), content)


def everything(folder: Path) -> dict[str, str | None]:
    """What lies in a folder: files with their content, links with their target, and folders."""
    return {
        path.relative_to(folder).as_posix(): os.readlink(path)  # noqa: PTH115
        if path.is_symlink()
        else path.read_text()
        if path.is_file()
        else None
        for path in folder.rglob("*")
    }


def is_whole(path: Path, content: str) -> bool:
    listed = json.loads((path / "manifest.json").read_text())["files"]
    files = {name: text for name, text in everything(path).items() if text is not None and name != "manifest.json"}
    return files == dict.fromkeys(listed, content) and len(listed) == 2


@SYSTEMS
def test_a_bundle_is_replaced_by_a_whole_one(out: Path, system: str) -> None:
    write(out, "new", overwrite=True)
    assert is_whole(out, "new")
    assert [each.name for each in out.parent.iterdir()] == ["phone"]


def test_one_of_the_first_format_is_replaced_too(out: Path) -> None:
    manifest = json.loads((out / "manifest.json").read_text())
    (out / "manifest.json").write_text(json.dumps({**manifest, "format": 1, "targets": {"onnx": "as it was"}}))
    write(out, "new", overwrite=True)
    assert is_whole(out, "new")


def _hidden_folder(out: Path) -> None:
    (out / ".git").mkdir()
    (out / ".git" / "HEAD").write_text("ref")


def _inside_a_package(out: Path) -> None:
    (out / "model.mlpackage" / "Data" / "notes.txt").write_text("mine")


def _link_in_place_of_a_file(out: Path) -> None:
    (out / "model.onnx").unlink()
    (out / "model.onnx").symlink_to("../elsewhere")


def _link_in_place_of_a_folder(out: Path) -> None:
    data = out / "model.mlpackage" / "Data"
    data.rename(out.parent / "Data")
    data.symlink_to("../../Data")


def _folder_in_place_of_a_file(out: Path) -> None:
    (out / "model.onnx").unlink()
    (out / "model.onnx").mkdir()


ADDED: dict[str, Callable[[Path], object]] = {
    "notes.txt": lambda out: (out / "notes.txt").write_text("mine"),
    "model.pt": lambda out: (out / "model.pt").write_text("the checkpoint that is exported"),
    "empty": lambda out: (out / "empty").mkdir(),
    ".git": _hidden_folder,
    "link": lambda out: (out / "link").symlink_to(out.parent),
    "model.mlpackage/Data/notes.txt": _inside_a_package,
    "model.onnx": _link_in_place_of_a_file,
    "model.mlpackage/Data": _link_in_place_of_a_folder,
    "model.onnx ": _folder_in_place_of_a_file,
}


@pytest.mark.parametrize("name", ADDED)
def test_what_others_put_into_a_bundle_is_named_and_nothing_is_touched(out: Path, name: str) -> None:
    ADDED[name](out)
    before = everything(out.parent)
    with pytest.raises(BundleError, match=rf"phone holds '{name.strip()}', which edgeqkv did not write"):
        write(out, "new", overwrite=True)
    assert everything(out.parent) == before


def test_many_are_counted(out: Path) -> None:
    for number in range(5):
        (out / f"{number}.txt").touch()
    with pytest.raises(BundleError, match=r"holds '0.txt', '1.txt', '2.txt' and 2 more, which"):
        write(out, "new", overwrite=True)


@pytest.mark.parametrize(
    "manifest",
    [
        json.dumps(EXTENSION),
        '{"format": 2, "edgeqkv": "0", "files": []}',
        '{"format": 2, "files": {}}',
        "[" * 100_000,
        "\0",
        "",
    ],
)
def test_a_manifest_of_somebody_else_makes_no_bundle(tmp_path: Path, manifest: str) -> None:
    folder = tmp_path / "extension"
    folder.mkdir()
    (folder / "manifest.json").write_text(manifest)
    before = everything(tmp_path)
    with pytest.raises(BundleError, match="is not a bundle of edgeqkv, so it is not replaced even with --force"):
        write(folder, "new", overwrite=True)
    assert everything(tmp_path) == before


def test_names_that_lead_out_of_the_folder_are_not_followed(out: Path) -> None:
    victim = out.parent / "victim"
    victim.write_text("mine")
    manifest = json.loads((out / "manifest.json").read_text())
    for name in ("../victim", str(victim), "model.mlpackage/../../victim", "..", ".", "", "a\\b"):
        manifest["files"][name] = {"bytes": 4, "sha256": ""}
    (out / "manifest.json").write_text(json.dumps(manifest))
    write(out, "new", overwrite=True)
    assert victim.read_text() == "mine"
    assert is_whole(out, "new")


def test_a_link_to_a_bundle_is_not_replaced(out: Path) -> None:
    link = out.with_name("link")
    link.symlink_to("phone")
    before = everything(out.parent)
    with pytest.raises(BundleError, match="is not a bundle of edgeqkv"):
        write(link, "new", overwrite=True)
    assert everything(out.parent) == before


@SYSTEMS
@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("there", ["file", "empty folder", "bundle"])
def test_what_appears_during_an_export_is_not_deleted(tmp_path: Path, system: str, overwrite: bool, there: str) -> None:
    out = tmp_path / "phone"
    appear = {
        "file": lambda: out.write_text("theirs"),
        "empty folder": out.mkdir,
        "bundle": lambda: made(out, "theirs"),
    }[there]
    with pytest.raises(BundleError, match=r"something else has appeared at .* during the export, and is left as it is"):
        write_while(out, appear, overwrite=overwrite)
    left = everything(tmp_path)
    out.unlink() if there == "file" else shutil.rmtree(out)
    appear()
    assert everything(tmp_path) == left


@SYSTEMS
def test_a_bundle_that_took_the_place_of_the_old_one_is_not_deleted(out: Path, system: str) -> None:
    kept = out.with_name("kept")
    with pytest.raises(BundleError, match="something else has appeared"):
        write_while(out, lambda: (out.rename(kept), made(out, "theirs")))
    assert is_whole(out, "theirs")
    assert is_whole(kept, "old")


@SYSTEMS
def test_what_is_put_into_the_old_bundle_during_an_export_is_not_deleted(out: Path, system: str) -> None:
    with pytest.raises(BundleError, match=r"phone holds 'notes\.txt'"):
        write_while(out, lambda: (out / "notes.txt").write_text("mine"))
    assert (out / "notes.txt").read_text() == "mine"
    (out / "notes.txt").unlink()
    assert is_whole(out, "old")
    assert [each.name for each in out.parent.iterdir()] == ["phone"]


@SYSTEMS
def test_a_bundle_that_is_moved_away_during_an_export_is_whole(out: Path, system: str) -> None:
    kept = out.with_name("kept")
    with pytest.raises(BundleError, match="No such file"):
        write_while(out, lambda: out.rename(kept))
    assert is_whole(kept, "old")
    assert [each.name for each in out.parent.iterdir()] == ["kept"]


def test_two_exports_to_one_place_are_one_too_many(out: Path) -> None:
    with staged(out, overwrite=True) as staging:
        fill(staging, "first")
        with pytest.raises(BundleError, match=r"another edgeqkv \(process \d+\) is at work .* give another --out"):
            write(out, "second", overwrite=True)
        write(out.with_name("tablet"), "beside it")
    assert is_whole(out, "first")
    assert is_whole(out.with_name("tablet"), "beside it")


def test_a_relative_place_and_a_linked_folder_are_the_same_place(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (out.parent.parent / "alias").symlink_to("build")
    monkeypatch.chdir(out.parent)
    with staged(Path("phone"), overwrite=True) as staging:
        fill(staging, "first")
        with pytest.raises(BundleError, match="another edgeqkv"):
            write(out.parent.parent / "alias" / "phone", "second", overwrite=True)
    assert is_whole(out, "first")


def test_folders_above_that_were_made_for_nothing_are_gone(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), staged(tmp_path / "a" / "b" / "phone", overwrite=False):
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


# --- killed ---


class Killed(BaseException):
    """Stands for SIGKILL: nothing that would be done afterwards is."""


def kill_in(monkeypatch: pytest.MonkeyPatch, out: Path, name: str, *, after: bool, times: int = 1) -> None:
    """Run an export with ``--force`` whose process dies before or after it first calls a function of staging."""
    called = getattr(staging_module, name)
    calls = 0

    def dying(*arguments: object) -> object:
        nonlocal calls
        calls += 1
        if calls < times:
            return called(*arguments)
        if after:
            called(*arguments)
        with monkeypatch.context() as dead:
            dead.setattr(staging_module, "_recover", lambda *_: None)
            raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(staging_module, name, dying)
        if name != "_recover":
            recover = staging_module._recover
            patched.setattr(staging_module, "_recover", lambda *a: None if calls >= times else recover(*a))
        with pytest.raises(Killed):
            write(out, "killed", overwrite=True)


@SYSTEMS
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("name", ["exchange", "rename_new"])
def test_a_swap_that_is_killed_leaves_a_whole_bundle_and_the_next_run_nothing_else(
    out: Path, system: str, name: str, after: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if system == "renameat2" and name == "rename_new":
        pytest.skip("is not called where folders change places")
    kill_in(monkeypatch, out, name, after=after)
    assert any(each.name == ".phone.edgeqkv" for each in out.parent.iterdir())
    with pytest.raises(BundleError, match="exists already; give another --out"):
        write(out, "next")  # which puts the old one back where it was moved aside
    replaced = after and (system == "renameat2" or name == "rename_new")
    assert is_whole(out, "killed" if replaced else "old")
    write(out.with_name("tablet"), "beside it")  # any export to the same folder cleans up
    assert {each.name for each in out.parent.iterdir()} == {"phone", "tablet"}
    write(out, "new", overwrite=True)
    assert is_whole(out, "new")


def test_what_was_put_into_an_old_bundle_before_a_kill_is_kept_and_named(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kill_in(monkeypatch, out, "exchange", after=True)
    left = out.parent / ".phone.edgeqkv" / "new"
    if not left.exists():
        pytest.skip("this file system cannot exchange")
    (left / "notes.txt").write_text("mine")
    with pytest.raises(BundleError, match=r"holds 'notes\.txt', which edgeqkv did not write"):
        write(out, "next", overwrite=True)
    write(out.with_name("tablet"), "beside it")
    assert (left / "notes.txt").read_text() == "mine"
    assert is_whole(out, "killed")


@SYSTEMS
def test_a_swap_that_fails_leaves_the_old_bundle(out: Path, system: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> bool:
        raise OSError(errno.EIO, "Input/output error")

    name = "exchange" if system == "renameat2" else "rename_new"
    called = getattr(staging_module, name)
    calls = 0

    def once(*arguments: Path) -> object:
        nonlocal calls
        calls += 1
        return fail() if calls == 1 else called(*arguments)

    monkeypatch.setattr(staging_module, name, once)
    with pytest.raises(BundleError, match="Input/output error"):
        write(out, "new", overwrite=True)
    assert is_whole(out, "old")
    assert [each.name for each in out.parent.iterdir()] == ["phone"]
