"""The GitHub Action: what it runs, on a real model, and what it says to a server in GitHub's place."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "action" / "export_and_comment.py"
ACTION = yaml.safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))


class GitHub:
    """The part of its interface that comments go through; ``forbids`` as for a pull request from a fork."""

    def __init__(self) -> None:
        self.comments: list[dict[str, Any]] = []
        self.forbids = False
        self.tokens: set[str | None] = set()
        github = self

        class Handler(BaseHTTPRequestHandler):
            def _answer(self, code: int, content: Any) -> None:
                body = json.dumps(content).encode()
                self.send_response(code)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def _given(self) -> str:
                return str(json.loads(self.rfile.read(int(self.headers["Content-Length"])))["body"])

            def do_GET(self) -> None:
                github.tokens.add(self.headers["Authorization"])
                query = re.fullmatch(r"/repos/o/r/issues/7/comments\?per_page=100&page=(\d+)", self.path)
                assert query
                start = 100 * (int(query[1]) - 1)
                self._answer(200, github.comments[start : start + 100])

            def do_POST(self) -> None:
                if github.forbids:
                    self._answer(403, {"message": "Resource not accessible by integration"})
                    return
                assert self.path == "/repos/o/r/issues/7/comments"
                github.add(self._given(), "Bot")
                self._answer(201, github.comments[-1])

            def do_PATCH(self) -> None:
                number = int(self.path.removeprefix("/repos/o/r/issues/comments/"))
                github.comments[number]["body"] = self._given()
                self._answer(200, github.comments[number])

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)

    def add(self, body: str, kind: str) -> None:
        self.comments.append({"id": len(self.comments), "body": body, "user": {"type": kind}})


@pytest.fixture
def github() -> Iterator[GitHub]:
    github = GitHub()
    thread = threading.Thread(target=github.server.serve_forever)
    thread.start()
    yield github
    github.server.shutdown()
    thread.join()
    github.server.server_close()


@pytest.fixture
def env(tmp_path: Path, github: GitHub) -> dict[str, str]:
    event = tmp_path / "event.json"
    event.write_text(json.dumps({"pull_request": {"number": 7}}))
    return {
        "GITHUB_EVENT_PATH": str(event),
        "GITHUB_API_URL": f"http://127.0.0.1:{github.server.server_port}",
        "GITHUB_REPOSITORY": "o/r",
        "GITHUB_STEP_SUMMARY": str(tmp_path / "summary.md"),
        "GITHUB_OUTPUT": str(tmp_path / "output"),
        "EDGEQKV_TOKEN": "secret",
        "EDGEQKV_COMMENT": "true",
        "EDGEQKV_TARGET": "onnx",
        "EDGEQKV_OUT": "bundle",
    }


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("export_and_comment", SCRIPT)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def run(env: dict[str, str], folder: Path) -> subprocess.CompletedProcess[str]:
    import os

    return subprocess.run(
        [sys.executable, SCRIPT], cwd=folder, env=os.environ | env, capture_output=True, text=True, check=False
    )


def test_it_exports_verifies_and_comments(
    env: dict[str, str], github: GitHub, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    chosen = {"EDGEQKV_MODEL": tiny_checkpoint.name, "EDGEQKV_VARIANT": "qk_v+gqa2", "EDGEQKV_DEVICES": "pixel-9-pro"}
    done = run(env | chosen | {"EDGEQKV_OPTIONS": "--weights fp32 --chunk 16"}, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    (comment,) = github.comments
    for said in (
        "`q-k=v+gqa2`",
        "Verified: largest difference",
        "| `pixel-9-pro` | yes |",
        "it has not run on these devices",
    ):
        assert said in comment["body"]
    assert github.tokens == {"Bearer secret"}
    assert "secret" not in done.stdout + done.stderr + comment["body"]
    assert (tmp_path / "output").read_text() == "bundle=bundle\nfits=true\n"
    assert (tmp_path / "summary.md").read_text() in comment["body"]
    assert (tmp_path / "bundle" / "manifest.json").exists()


def test_a_false_claim_fails_and_says_so(
    env: dict[str, str], github: GitHub, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    done = run(env | {"EDGEQKV_MODEL": tiny_checkpoint.name, "EDGEQKV_VARIANT": "qkv"}, tmp_path)
    assert done.returncode == 2, done.stdout
    assert "**Not exported.**" in github.comments[0]["body"]
    assert "q-k=v+gqa2" in github.comments[0]["body"]
    assert not (tmp_path / "bundle").exists()


def answers(script: ModuleType, monkeypatch: pytest.MonkeyPatch, codes: dict[str, int]) -> None:
    """Commands end so, without running."""
    artifact = {"form": "portable", "weights": "int4", "state": "fp32", "context": 64}
    proof = {"max_abs_error": 1e-6, "tolerance": 1e-4, "positions": 64}
    manifest = {
        "model": {"variant": "q-k=v"},
        "targets": {"onnx": {"artifact": artifact, "verification": proof}},
        "files": {"model.onnx": {"bytes": 2_000_000}},
    }

    def edgeqkv(command: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        code = codes.get(arguments[-1] if command == "budget" else command, 0)
        said = json.dumps(manifest) if command == "export" else f"said of {arguments[-1]} ```"
        return subprocess.CompletedProcess([], code, stdout=said, stderr="")

    monkeypatch.setattr(script, "edgeqkv", edgeqkv)


def job(script: ModuleType, **given: Any) -> Any:
    return script.Job(
        **({"model": "m.pt", "target": "onnx", "out": "b", "variant": "", "devices": (), "options": ()} | given)
    )


def test_a_device_that_is_too_small_fails_after_the_comment(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers(script, monkeypatch, {"watch": 1})
    outcome = script.run(job(script, devices=("phone", "watch")))
    assert (outcome.code, outcome.fits) == (1, False)
    assert "| `phone` | yes |" in outcome.text
    assert "| `watch` | **no** |" in outcome.text


def test_an_unknown_device_is_not_called_too_small(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    answers(script, monkeypatch, {"phne": 2})
    outcome = script.run(job(script, devices=("phne",)))
    assert outcome.code == 2
    assert "| `phne` | not known |" in outcome.text


def test_what_is_not_verified_is_not_budgeted(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    answers(script, monkeypatch, {"verify": 1})
    outcome = script.run(job(script, devices=("phone",)))
    assert (outcome.code, outcome.fits) == (1, None)
    assert "**Not verified.**" in outcome.text


def test_output_cannot_leave_its_fence_nor_a_name_its_cell(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    answers(script, monkeypatch, {})
    text = script.run(job(script, model="a`|b\n# c", devices=("phone",))).text
    assert "````text\nsaid of phone ```\n````" in text
    assert "`a'¦b # c`" in text


def test_a_later_run_replaces_its_own_comment_and_nobody_elses(
    script: ModuleType, env: dict[str, str], github: GitHub
) -> None:
    marker = job(script).marker
    for number in range(120):
        github.add(f"talk {number}", "User")
    github.add(f"{marker}\nsomebody quotes it", "User")
    assert script.comment("first", marker, env) == "commented"
    assert script.comment("second", marker, env) == "comment replaced"
    assert len(github.comments) == 122
    assert github.comments[-1]["body"] == f"{marker}\nsecond"
    assert script.comment("other", job(script, target="coreml").marker, env) == "commented"


def test_a_fork_that_may_not_comment_is_no_failure(script: ModuleType, env: dict[str, str], github: GitHub) -> None:
    github.forbids = True
    assert script.comment("text", job(script).marker, env).startswith("::warning::")


def test_a_push_is_no_pull_request(script: ModuleType, env: dict[str, str], github: GitHub) -> None:
    Path(env["GITHUB_EVENT_PATH"]).write_text("{}")
    assert "no pull request" in script.comment("text", "<!-- -->", env)
    assert not github.comments


def test_the_action_gives_the_script_what_it_reads() -> None:
    steps = ACTION["runs"]["steps"]
    step = next(step for step in steps if step.get("id") == "edgeqkv")
    assert SCRIPT.name in step["run"]
    read = set(re.findall(r"EDGEQKV_[A-Z]+", SCRIPT.read_text(encoding="utf-8")))
    assert set(step["env"]) == read
    given = {f"${{{{ inputs.{name} }}}}" for name in ACTION["inputs"]}
    assert set(step["env"].values()) == given
    for each in steps:  # an input in a command would be run as a part of it
        assert "${{" not in each.get("run", "")


def test_the_page_has_every_input() -> None:
    page = (ROOT / "docs" / "ci.md").read_text(encoding="utf-8")
    for name in ACTION["inputs"]:
        assert f"| `{name}` |" in page
