"""Renames that replace nothing, or let two names change places; and what is done where the system has neither."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeqkv.disk import atomic

SYSTEMS = pytest.mark.parametrize("knows", [True, False], ids=["as the system can", "without its help"])


@pytest.fixture
def _system(knows: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not knows:
        monkeypatch.setattr(atomic, "_system_call", lambda how: None)


@SYSTEMS
@pytest.mark.usefixtures("_system")
@pytest.mark.parametrize("there", ["file", "empty folder", "full folder", "dangling link"])
def test_a_folder_is_renamed_to_a_new_name_only(tmp_path: Path, there: str) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    (source / "a").touch()
    match there:
        case "file":
            target.write_text("theirs")
        case "dangling link":
            target.symlink_to("nowhere")
        case _:
            target.mkdir()
            if there == "full folder":
                (target / "b").touch()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(FileExistsError):
        atomic.rename_new(source, target)
    assert sorted(tmp_path.rglob("*")) == before
    atomic.rename_new(source, tmp_path / "free")
    assert (tmp_path / "free" / "a").exists()


def test_two_folders_change_places(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    if not atomic.exchange(tmp_path / "a", tmp_path / "b"):
        pytest.skip("this file system cannot")
    assert (tmp_path / "a" / "b").exists()
    assert (tmp_path / "b" / "a").exists()
    with pytest.raises(FileNotFoundError):
        atomic.exchange(tmp_path / "a", tmp_path / "nowhere")


def test_a_system_that_cannot_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(atomic, "_system_call", lambda how: None)
    assert not atomic.exchange(tmp_path / "a", tmp_path / "b")
