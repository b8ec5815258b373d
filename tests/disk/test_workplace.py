"""Folders that are locked by who works in them, and taken over from the dead."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from edgeqkv.disk import workplace as places
from edgeqkv.disk.workplace import Busy, clear, scratch, sweep, temporary_files_together, workplace
from edgeqkv.errors import InputError


def killed(folder: Path) -> Path:
    """A workplace as it is left by a process that was killed."""
    folder.mkdir()
    (folder / "lock").write_text("edgeqkv 4711")
    (folder / "half").write_text("written")
    return folder


def test_it_is_gone_afterwards_and_nobody_else_gets_it_meanwhile(tmp_path: Path) -> None:
    place = tmp_path / ".phone.edgeqkv"
    with workplace(place) as folder:
        assert folder == place
        with pytest.raises(Busy, match=rf"another edgeqkv \(process {os.getpid()}\) is at work"), workplace(place):
            pass
    assert list(tmp_path.iterdir()) == []


def test_that_of_a_dead_process_is_taken_over_with_what_lies_in_it(tmp_path: Path) -> None:
    place = killed(tmp_path / ".phone.edgeqkv")
    with workplace(place):
        assert (place / "half").read_text() == "written"
        clear(place)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("lock", [None, "my own lock"])
def test_a_folder_of_somebody_else_is_left_alone(tmp_path: Path, lock: str | None) -> None:
    place = tmp_path / ".phone.edgeqkv"
    place.mkdir()
    (place / "notes").write_text("mine")
    if lock is not None:
        (place / "lock").write_text(lock)
    with pytest.raises(Busy, match="edgeqkv did not make"), workplace(place):
        pass
    sweep(tmp_path, ".*.edgeqkv", clear)
    assert (place / "notes").read_text() == "mine"


def test_a_link_to_a_folder_is_none(tmp_path: Path) -> None:
    killed(tmp_path / "elsewhere")
    (tmp_path / ".phone.edgeqkv").symlink_to("elsewhere")
    sweep(tmp_path, ".*.edgeqkv", clear)
    with pytest.raises(Busy), workplace(tmp_path / ".phone.edgeqkv"):
        pass
    assert (tmp_path / "elsewhere" / "half").exists()


def test_a_sweep_takes_the_dead_and_leaves_the_living(tmp_path: Path) -> None:
    killed(tmp_path / ".dead.edgeqkv")
    (tmp_path / ".unborn.edgeqkv").mkdir()  # killed before it locked anything
    (tmp_path / "phone").mkdir()
    with workplace(tmp_path / ".living.edgeqkv"):
        sweep(tmp_path, ".*.edgeqkv", clear)
        assert {each.name for each in tmp_path.iterdir()} == {".living.edgeqkv", "phone"}


def test_without_locks_only_a_new_folder_is_surely_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(places.fcntl, "flock", unknown)
    place = killed(tmp_path / ".dead.edgeqkv")
    sweep(tmp_path, ".*.edgeqkv", clear)
    with pytest.raises(Busy, match="remove it if it is not"), workplace(place):
        pass
    assert (place / "half").exists()
    with workplace(tmp_path / ".new.edgeqkv"):
        pass
    assert not (tmp_path / ".new.edgeqkv").exists()


def test_scratch_is_private_and_removes_what_the_dead_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    killed(tmp_path / "edgeqkv-abc.scratch")
    (tmp_path / "edgeqkv-models").mkdir()  # a user's
    with scratch() as folder, scratch() as other:
        assert folder != other
        assert folder.stat().st_mode & 0o777 == 0o700
        (folder / "array").touch()
    assert [each.name for each in tmp_path.iterdir()] == ["edgeqkv-models"]


def test_no_room_for_temporary_files_is_an_error_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    with pytest.raises(InputError, match="set TMPDIR to a folder with room"), scratch():
        pass


def test_what_libraries_leave_behind_is_removed_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.delenv("TMPDIR", raising=False)
    with temporary_files_together():
        assert Path(tempfile.mkdtemp()).is_relative_to(tmp_path)
        assert os.environ["TMPDIR"] == tempfile.gettempdir() != str(tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert tempfile.gettempdir() == str(tmp_path)
    assert "TMPDIR" not in os.environ


def test_a_failure_lets_go_of_temporary_files_before_their_folder_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They would be told of later, by a file that misses its folder: pytest takes that for an error."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def library() -> None:
        file = tempfile.NamedTemporaryFile()  # noqa: SIM115
        file.seek(-1)

    def ours() -> None:
        try:
            library()
        except OSError as error:
            raise InputError("cannot") from error

    with pytest.raises(InputError, match="cannot"), temporary_files_together():
        ours()
    assert list(tmp_path.iterdir()) == []
