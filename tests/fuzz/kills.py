"""Exports over an old bundle that are killed, told to end, or run out of disk, at random moments.

    python tests/fuzz/kills.py --cases 200 --seed 0 --targets onnx,executorch,coreml

After each: a whole bundle is in its place, the old one or the new one; no process is left; and after the next run, of
another export to the same folder, no file is left either. An export that was told to end, or had no room, leaves none
to begin with, and says in one line what happened. Exits 1 with the cases that were not so. Linux only; disks are
really full where this user may mount one, else files are limited in size.

Exports run in forks of a process that has imported everything, so that the moments fall into the exports.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from edgeqkv import export, load
from edgeqkv.bundle.bundle import Bundle
from edgeqkv.checkpoints.synthetic import write_random_checkpoint
from edgeqkv.children import orderly_end
from edgeqkv.cli.app import main as edgeqkv
from edgeqkv.errors import EdgeQKVError

TINY = {"n_layer": 2, "n_embd": 32, "n_head": 4, "n_positions": 48, "vocab_size": 97}
KINDS = ("kill", "kill", "terminate", "interrupt", "full", "limit")
PATIENCE = 120  # seconds, for a library's call to return before Python gets to see a signal


class Case:
    """One export that is disturbed, in a folder of its own."""

    def __init__(self, folder: Path, model: Path, old: Path | None) -> None:
        self.model = model
        self.build, self.temporary, self.log = folder / "build", folder / "tmp", folder.with_suffix(".log")
        self.build.mkdir()
        self.temporary.mkdir()
        if old is not None:
            shutil.copytree(old, self.build / "phone")
        self.problems: list[str] = []
        self.ended = ""

    def export(self, name: str, *options: str, limit: int | None = None) -> int:
        """Start an export in a fork, which may write no file of more than ``limit`` bytes; its process id."""
        later = {signal.SIGINT, signal.SIGTERM}  # until the fork is known to be one
        signal.pthread_sigmask(signal.SIG_BLOCK, later)
        process = os.fork()
        if process:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, later)
            return process
        code = 1
        try:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, later)
            os.environ["TMPDIR"] = str(self.temporary)
            tempfile.tempdir = None
            log = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(log, 1)
            os.dup2(log, 2)
            sys.argv = ["edgeqkv", "export", str(self.model), "--out", str(self.build / name), *options]
            if limit is not None:
                signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            edgeqkv()
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        except KeyboardInterrupt:  # before the command had begun, which knows what to do
            code = 130
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            with suppress(OSError, ValueError):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)

    def check_bundle(self, old: Path, target: str) -> None:
        try:
            bundle = Bundle(self.build / "phone")
        except EdgeQKVError as error:
            self.check(False, str(error))
            return
        files = {each.relative_to(bundle.path).as_posix() for each in bundle.path.rglob("*") if each.is_file()}
        self.check(files == {*bundle.manifest.files, "manifest.json"}, f"the bundle holds {sorted(files)}")
        is_old = (bundle.path / "manifest.json").read_bytes() == (old / "manifest.json").read_bytes()
        is_new = bundle.target(target).artifact.chunk == 8
        self.check(is_old or is_new, "the bundle is neither the old one nor the new one")

    def check_processes(self) -> None:
        until = time.monotonic() + PATIENCE
        while (left := processes_of(self.temporary)) and time.monotonic() < until:
            time.sleep(0.05)
        self.check(not left, f"processes are left: {left}")

    def check_files(self, *names: str, when: str) -> None:
        left = {each.name for each in self.build.iterdir()} - set(names) | {
            each.name for each in self.temporary.iterdir()
        }
        self.check(not left, f"{when}, there are left: {sorted(left)}")

    def check_told(self) -> None:
        told = self.log.read_text(errors="replace")
        self.check("Traceback" not in told, f"a traceback: {told[-600:]}")

    def check(self, fine: bool, problem: str) -> None:
        if not fine:
            self.problems.append(problem)


SIGNALS = {"kill": signal.SIGKILL, "terminate": signal.SIGTERM, "interrupt": signal.SIGINT}


def wait(process: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def processes_of(temporary: Path) -> list[str]:
    """The processes that have a case's folder for temporary files, or one in it."""
    sign, found = f"TMPDIR={temporary}".encode(), []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if sign in (entry / "environ").read_bytes() and entry.name != str(os.getpid()):
                found.append((entry / "cmdline").read_text().replace("\0", " "))
    return found


@contextmanager
def disk(folder: Path, size: int | None) -> Iterator[None]:
    """A disk of so many bytes at a folder, where this user may mount one."""
    if size is None:
        yield
        return
    mount(folder, f"size={size}")
    try:
        yield
    finally:
        subprocess.run(["umount", folder], check=True, capture_output=True)


def mount(folder: Path, options: str) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "edgeqkv", folder], check=True, capture_output=True)


def may_mount(folder: Path) -> bool:
    try:
        with disk(folder, 1 << 20):
            return True
    except (OSError, subprocess.CalledProcessError):
        return False


class Campaign:
    """Cases of one target, which share the old bundle and how long an export takes."""

    def __init__(self, place: Path, target: str, seed: int, kinds: Sequence[str]) -> None:
        self.place, self.target, self.seed = place, target, seed
        self.model = write_random_checkpoint(place / "model.pt", "q-k=v+gqa2", std=0.2, **TINY)
        self.kinds = [kind for kind in kinds if kind != "full" or may_mount(place)]
        self.old = place / "old"
        export(load(self.model), target, out=self.old)  # which imports what it needs
        started = time.monotonic()
        first = self._case("first", None)
        code = wait(first.export("phone", "--target", target))
        assert code == 0, first.log.read_text()
        self.seconds = time.monotonic() - started
        self.sizes = [each.stat().st_size for each in self.old.rglob("*") if each.is_file()]

    def run(self, number: int) -> Case:
        random_ = random.Random(f"{self.seed} {self.target} {number}")
        kind, folder = random_.choice(self.kinds), self.place / str(number)
        folder.mkdir()
        room = None
        if kind == "full":  # for the old bundle, and for a part of the new one
            pages = sum(1 + -(-size // 4096) for size in self.sizes)
            room = 4096 * (pages + 8 + random_.randrange(pages))
        with disk(folder, room):
            case = self._case(str(number), self.old)
            case.ended = self._disturbed(case, kind, random_)
            case.check_bundle(self.old, self.target)
            case.check_processes()
            if kind != "kill" and not case.ended.endswith("SIGTERM"):  # which came before anything had begun
                case.check_files("phone", when="at once")
                case.check_told()
            if room is not None:
                mount(folder, "remount,size=64m")
            code = wait(case.export("tablet", "--no-verify"))
            case.check(code == 0, f"the next run: exit code {code}")
            case.check_files("phone", "tablet", when="after the next run")
        shutil.rmtree(folder)
        return case

    def _case(self, name: str, old: Path | None) -> Case:
        (self.place / name).mkdir(exist_ok=True)
        return Case(self.place / name, self.model, old)

    def _disturbed(self, case: Case, kind: str, random_: random.Random) -> str:
        """Run an export and disturb it; how it ended."""
        limit = random_.randrange(max(self.sizes)) if kind == "limit" else None
        process = case.export("phone", "--force", "--target", self.target, "--chunk", "8", limit=limit)
        if kind in SIGNALS:
            time.sleep(random_.uniform(0, self.seconds * 1.05))
            with suppress(ProcessLookupError):
                os.kill(process, SIGNALS[kind])
        code = wait(process)
        case.check(kind in SIGNALS or code in (0, 2), f"{kind}: exit code {code}")
        return f"{kind}: exit {code}" if code >= 0 else f"{kind}: {signal.Signals(-code).name}"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cases", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--targets", default="onnx,executorch,coreml")
    given = parser.parse_args()
    ended: Counter[str] = Counter()
    failed = 0
    targets = given.targets.split(",")
    try:
        with orderly_end(), tempfile.TemporaryDirectory(prefix="kills-") as place:
            for index, target in enumerate(targets):
                (folder := Path(place) / target).mkdir()
                campaign = Campaign(folder, target, given.seed, given.kinds.split(","))
                for number in range(index, given.cases, len(targets)):
                    case = campaign.run(number)
                    ended[f"{target}, {case.ended}"] += 1
                    failed += bool(case.problems)
                    for problem in case.problems:
                        print(f"case {number}, {target}, {case.ended}: {problem}", flush=True)
    finally:  # of as many as there were, where somebody has had enough
        for how, count in sorted(ended.items()):
            print(f"{how}: {count}")
        print(f"{sum(ended.values())} cases, seed {given.seed}: {failed} failed", flush=True)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
