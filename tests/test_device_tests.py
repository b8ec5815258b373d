from __future__ import annotations

from pathlib import Path

import pytest

from device_tests.__main__ import _HERE, _LONGEST, main


def suite(home: Path, name: str, program: str) -> None:
    (home / name).mkdir(parents=True)
    (home / name / "check.py").write_text(program)


def test_what_passed_was_skipped_and_failed_is_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home = tmp_path / "device_tests"
    suite(home, "good", "print('fine')")
    suite(home, "absent", "import sys; print('looked for it'); print('no such tool here'); sys.exit(77)")
    assert main([], home) == 0
    suite(home, "broken", "import sys; sys.exit('it is broken')")
    assert main([], home) == 1
    table = [line.split("\t") for line in capsys.readouterr().out.splitlines() if line.count("\t") == 2]
    assert [(name, result) for name, _, result in table[-3:]] == [
        ("absent", "skipped: no such tool here"),
        ("broken", "FAILED (exit code 1)"),
        ("good", "passed"),
    ]


def test_what_starts_first_exists() -> None:
    assert set(_LONGEST) < {path.parent.name for path in _HERE.glob("*/check.py")}


def test_a_suite_can_be_named_and_runs_above_the_suites(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home = tmp_path / "device_tests"
    suite(home, "one", "import os; print(os.getcwd())")
    suite(home, "two", "raise SystemExit(1)")
    assert main(["one"], home) == 0
    assert str(tmp_path) in capsys.readouterr().out
    assert main(["three"], home) == 2
    assert "three" in capsys.readouterr().err
