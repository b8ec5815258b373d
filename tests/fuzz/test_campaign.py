"""Some of the commands that `campaign` runs, always the same; and that it sees what it looks for."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

CAMPAIGN = Path(__file__).with_name("campaign.py")

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="runs cases in forks, and looks at their memory")


def run(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", script, *arguments] if script else [sys.executable, str(CAMPAIGN), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=CAMPAIGN.parent)


@pytest.mark.parametrize("cases", [150, pytest.param(1000, marks=pytest.mark.full)])
def test_damaged_and_malicious_inputs_do_no_harm(cases: int) -> None:
    done = run("", "--cases", str(cases), "--seed", "1", "--targets", "onnx")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{cases} cases, seed 1" in done.stdout
    assert ": 0 failed" in done.stdout


# Commands that do one kind of harm each, in place of edgeqkv's own.
HARM = """
import json, os, sys
from pathlib import Path
import trial

def harm():
    what = sys.argv[1]
    match what:
        case "raises": raise KeyError("x")
        case "code": sys.exit(7)
        case "silent": sys.exit(2)
        case "json": print("NaN")
        case "prints": print("Traceback (most recent call last):", file=sys.stderr)
        case "loses": Path("input").unlink()
        case "changes": Path("input").write_text("b")
        case "leaves": (trial.Path(os.environ["TMPDIR"]) / "x").touch()
        case "half": Path("new").mkdir(); print("error: no", file=sys.stderr); sys.exit(2)
        case "runs": Path("../../canary").touch()
        case "crash": os.kill(os.getpid(), 11)
    sys.exit(0)

import cases, campaign
trial.edgeqkv = harm
KINDS = "raises code silent json prints loses changes leaves half runs crash fine".split()
def kind(name):
    def make(random, samples, place):
        (place.here / "input").write_text("a")
        return trial.Case([name, *(["--json"] if name == "json" else [])], {"new"})
    return make
for name in KINDS:
    cases.KINDS[name], cases.SHARES[name] = kind(name), 1
found = {}
class Summary(campaign.Summary):
    def add(self, number, kind, ended, problems, arguments):
        found.setdefault(kind, set()).update(each.partition(":")[0] for each in problems)
campaign.campaign(Summary(), None, Path(sys.argv[1]), KINDS, 0, range(150))
print(json.dumps({kind: sorted(problems) for kind, problems in found.items()}))
"""


def test_every_kind_of_harm_is_seen(tmp_path: Path) -> None:
    done = run(HARM, str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "raises": ["traceback"],
        "code": ["exit code"],
        "silent": ["message"],
        "json": ["json"],
        "prints": ["traceback"],
        "loses": ["files"],
        "changes": ["files"],
        "leaves": ["files"],
        "half": ["files"],
        "runs": ["executed"],
        "crash": ["crash"],
        "fine": [],
    }
