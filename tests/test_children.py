"""Processes that do not outlive the one that started them, and what ends when that is asked to end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edgeqkv.children import orderly_end, running

CHILD = """
from edgeqkv.children import end_with_parent
import sys, time
end_with_parent()
print("ready", flush=True)
{then}
"""
LATE = "import os; os.close(1); time.sleep(0.3); sys.exit(7)"
SLEEP = "time.sleep(600)"

PARENT = f"""
import os, subprocess, sys
from pathlib import Path
from edgeqkv.children import orderly_end, running
from edgeqkv.disk.workplace import scratch
with orderly_end(), scratch() as folder:
    command = [sys.executable, "-c", {CHILD.format(then=SLEEP)!r}]
    with running(command, dict(os.environ), subprocess.DEVNULL, folder) as child:
        child.stdout.readline()
        print(child.pid, flush=True)
        child.wait()
"""


def child(then: str) -> list[str]:
    return [sys.executable, "-c", CHILD.format(then=then)]


def test_one_that_ends_by_itself_has_its_exit_code(tmp_path: Path) -> None:
    """Its input is closed as well, which must not be what ends it, though its output ends before it does."""
    with running(child(LATE), os.environ, subprocess.DEVNULL, tmp_path) as process:
        assert process.stdout is not None
        assert process.stdout.read() == "ready\n"
    assert process.returncode == 7


def test_one_is_ended_when_the_block_fails(tmp_path: Path) -> None:
    started = time.monotonic()
    with (
        pytest.raises(KeyboardInterrupt),
        running(child(SLEEP), os.environ, subprocess.DEVNULL, tmp_path) as process,
    ):
        raise KeyboardInterrupt
    assert process.returncode == -signal.SIGKILL
    assert time.monotonic() - started < 60


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGKILL])
def test_no_end_of_a_program_leaves_a_process_or_after_the_next_run_a_folder(
    number: signal.Signals, tmp_path: Path
) -> None:
    command = [sys.executable, "-c", PARENT]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    pipe, nowhere = subprocess.PIPE, subprocess.DEVNULL
    with subprocess.Popen(command, stdout=pipe, stderr=nowhere, text=True, env=environment) as parent:
        assert parent.stdout is not None
        started = int(parent.stdout.readline())
        assert len(list(tmp_path.iterdir())) == 1
        parent.send_signal(number)
    expected = 128 + number if number in (signal.SIGTERM, signal.SIGHUP) else -number
    assert parent.returncode == expected
    for _ in range(600):
        if has_ended(started):
            break
        time.sleep(0.05)
    assert has_ended(started)
    if number == signal.SIGKILL:
        assert len(list(tmp_path.iterdir())) == 1
        sweep = "from edgeqkv.disk.workplace import scratch\nwith scratch(): pass"
        subprocess.run([sys.executable, "-c", sweep], env=environment, check=True)
    assert list(tmp_path.iterdir()) == []


def has_ended(process: int) -> bool:
    """Whether a process, of whomever, is gone or waits for somebody to ask how it ended."""
    try:
        os.kill(process, 0)
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (ProcessLookupError, FileNotFoundError):
        return True


def test_what_a_shell_or_a_program_decided_about_signals_stays() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        with orderly_end():
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
            with pytest.raises(SystemExit) as ended:
                signal.raise_signal(signal.SIGTERM)
        assert ended.value.code == 143
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    finally:
        signal.signal(signal.SIGHUP, before)
