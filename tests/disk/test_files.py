"""A file that a user named: written whole, over an older one of its kind, and over nothing else."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from edgeqkv.disk.files import check_place, write_text
from edgeqkv.errors import InputError

MARK = b"<made by us>"
OLD, NEW = "<made by us> old", "<made by us> new"


def names(folder: Path) -> set[str]:
    return {each.name for each in folder.iterdir()}


def test_a_new_file_and_an_older_one_of_ours_are_written(tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    write_text(file, OLD, MARK)
    file.chmod(0o640)
    write_text(file, NEW, MARK)
    assert file.read_text() == NEW
    assert file.stat().st_mode & 0o777 == 0o640
    assert names(tmp_path) == {"report.html"}
    (tmp_path / "empty").touch()  # as mktemp makes them
    write_text(tmp_path / "empty", NEW, MARK)
    assert (tmp_path / "empty").read_text() == NEW


def test_names_that_are_no_text_are_written_as_the_terminal_shows_them(tmp_path: Path) -> None:
    """As a command line has them, which a report repeats."""
    page = tmp_path / "a.html"
    write_text(page, f"{MARK.decode()} of \udcff.pt", MARK)
    assert page.read_text(encoding="utf-8") == f"{MARK.decode()} of \\udcff.pt"


def test_what_was_not_written_by_us_is_not_replaced(tmp_path: Path) -> None:
    file = tmp_path / "thesis.html"
    file.write_text("years of work")
    with pytest.raises(InputError, match=r"thesis\.html exists and was not written by edgeqkv"):
        write_text(file, NEW, MARK)
    assert file.read_text() == "years of work"
    assert names(tmp_path) == {"thesis.html"}


def test_inputs_are_not_written_to_by_any_name(tmp_path: Path) -> None:
    model, bundle = tmp_path / "model.pt", tmp_path / "bundle"
    model.write_text(OLD)  # even if it looked like one of ours
    bundle.mkdir()
    (bundle / "report.html").write_text(OLD)
    os.link(model, tmp_path / "hard")
    (tmp_path / "soft").symlink_to("model.pt")
    inputs = [model, bundle, tmp_path / "missing"]
    for place in (model, tmp_path / "hard", tmp_path / "soft", bundle / "report.html", bundle / "new.html"):
        with pytest.raises(InputError, match="is what this command reads"):
            write_text(place, NEW, MARK, inputs)
    assert model.read_text() == (bundle / "report.html").read_text() == OLD
    assert names(bundle) == {"report.html"}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "it is a folder"),
        ("nowhere/report.html", "there is no folder"),
        ("file/report.html", "there is no folder"),
        ("x" * 300, "File name too long"),
    ],
)
def test_places_that_cannot_be_written(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=message):
        check_place(tmp_path / name, MARK)
    with pytest.raises(InputError, match=message):
        write_text(tmp_path / name, NEW, MARK)
    assert names(tmp_path) == {"file"}


def test_a_link_stays_one(tmp_path: Path) -> None:
    (tmp_path / "real.html").write_text(OLD)
    (tmp_path / "link.html").symlink_to("real.html")
    (tmp_path / "dangling.html").symlink_to("made.html")
    for name in ("link.html", "dangling.html"):
        write_text(tmp_path / name, NEW, MARK)
        assert (tmp_path / name).is_symlink()
    assert (tmp_path / "real.html").read_text() == (tmp_path / "made.html").read_text() == NEW
    (tmp_path / "theirs").write_text("years of work")
    (tmp_path / "link.html").unlink()
    (tmp_path / "link.html").symlink_to("theirs")
    with pytest.raises(InputError, match="was not written by edgeqkv"):
        write_text(tmp_path / "link.html", NEW, MARK)


def test_pipes_and_devices_are_written_to_as_they_are(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_text(Path("/dev/null"), NEW, MARK)
    assert not Path("/dev/null").is_file()
    write_text(Path("/dev/stdout"), NEW, MARK)
    assert capfd.readouterr().out == NEW
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append(fifo.read_text()))
    reader.start()
    write_text(fifo, NEW, MARK)
    reader.join(10)
    assert read == [NEW]
    assert fifo.is_fifo()


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "report.html"
    file.write_text(OLD)

    def full(path: Path, *_: object, **__: object) -> None:
        path.touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(InputError, match="No space left on device"):
        write_text(file, NEW, MARK)
    assert file.read_text() == OLD
    assert names(tmp_path) == {"report.html"}


def test_what_appears_meanwhile_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "report.html"
    write = Path.write_text

    def slowly(path: Path, text: str, **options: str) -> int:
        file.write_bytes(b"theirs")
        return write(path, text, **options)

    monkeypatch.setattr(Path, "write_text", slowly)
    with pytest.raises(InputError, match=r"cannot write .*File exists"):
        write_text(file, NEW, MARK)
    assert file.read_text() == "theirs"


def test_what_a_killed_one_left_is_removed_by_the_next(tmp_path: Path) -> None:
    left = tmp_path / ".other.html.edgeqkv-file"
    left.mkdir()
    (left / "lock").write_text("edgeqkv 4711")
    (left / "new").write_text("half")
    write_text(tmp_path / "report.html", NEW, MARK)
    assert names(tmp_path) == {"report.html"}
