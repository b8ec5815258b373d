"""Run the suites: ``python -m device_tests [NAME]…``. Without names, all of them.

A suite is a folder with a ``check.py`` that exits with 0 if it passed and with 77 if it cannot run here, the reason
being its last line. Two run at a time, and what one has to say is printed when it is done.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from device_tests.suite import SKIPPED
from edgeqkv.cli.console import print_table

_HERE = Path(__file__).parent
_AT_A_TIME = 2
_LONGEST = ("web", "cpp", "arm64")
"""Suites that start first: what one of two processes does last should be short."""


@dataclass(frozen=True)
class Result:
    """How a suite ended, and what it said."""

    name: str
    exit_code: int
    output: str
    seconds: float

    @property
    def failed(self) -> bool:
        return self.exit_code not in (0, SKIPPED)

    @property
    def words(self) -> str:
        """The result as a reader wants it: with the reason for what was not done."""
        if self.exit_code == 0:
            return "passed"
        if self.exit_code == SKIPPED:
            return f"skipped: {self.output.strip().splitlines()[-1]}"
        return f"FAILED (exit code {self.exit_code})"


def run(folder: Path) -> Result:
    """Run a suite in a process of its own, in the folder above all suites."""
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, folder / "check.py"],
        cwd=folder.parent.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    return Result(folder.name, done.returncode, done.stdout, time.monotonic() - started)


def main(asked: Sequence[str], home: Path = _HERE) -> int:
    """Run the suites asked for, or all; 0 if none failed, 1 if one did, 2 if one does not exist."""
    suites = sorted(path.parent.name for path in home.glob("*/check.py"))
    unknown = sorted(set(asked) - set(suites))
    if unknown:
        print(f"no suite is called {', '.join(unknown)}; there are {', '.join(suites)}", file=sys.stderr)
        return 2
    order = sorted(asked or suites, key=lambda name: _LONGEST.index(name) if name in _LONGEST else len(_LONGEST))
    results = []
    with ThreadPoolExecutor(_AT_A_TIME) as pool:
        for finished in as_completed([pool.submit(run, home / name) for name in order]):
            result = finished.result()
            print(f"== {result.name}\n{result.output.rstrip()}\n", flush=True)
            results.append(result)
    results.sort(key=lambda result: result.name)
    print_table(("suite", "seconds", "result"), [(each.name, f"{each.seconds:.0f}", each.words) for each in results])
    return 1 if any(result.failed for result in results) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
