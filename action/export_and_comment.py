"""What the GitHub Action does: export, verify, budget, and say so on the pull request.

Everything is given in variables (action.yml). The text goes to the job's summary, and to one comment a model
and target, which later runs replace. Exits as edgeqkv does: 0 fine, 1 a check failed, 2 wrong input.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_PAGE = 100  # comments that GitHub gives at once


@dataclass(frozen=True)
class Job:
    """The action's inputs."""

    model: str
    target: str
    out: str
    variant: str
    devices: tuple[str, ...]
    options: tuple[str, ...]

    @classmethod
    def of(cls, env: Mapping[str, str]) -> Job:
        return cls(
            model=env["EDGEQKV_MODEL"],
            target=env["EDGEQKV_TARGET"],
            out=env["EDGEQKV_OUT"],
            variant=env.get("EDGEQKV_VARIANT", ""),
            devices=tuple(name.strip() for name in env.get("EDGEQKV_DEVICES", "").split(",") if name.strip()),
            options=tuple(shlex.split(env.get("EDGEQKV_OPTIONS", ""))),
        )

    @property
    def marker(self) -> str:
        """An invisible line by which the comment is found again."""
        digest = hashlib.sha256(f"{self.model}\n{self.target}".encode()).hexdigest()[:16]
        return f"<!-- edgeqkv {digest} -->"


@dataclass(frozen=True)
class Outcome:
    """What came of it: the text for people, the exit code, and whether all devices let it in."""

    text: str
    code: int
    fits: bool | None = None


def edgeqkv(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", "-m", "edgeqkv", *arguments], capture_output=True, text=True, check=False
    )


def run(job: Job) -> Outcome:
    """Export and verify, and ask for each device whether it lets the model in."""
    heading = f"### edgeqkv: {_plain(job.model)} for {_plain(job.target)}\n\n"
    claim = ["--variant", job.variant] if job.variant else []
    exported = edgeqkv(
        "export", job.model, "--target", job.target, "--out", job.out, *claim, *job.options, "--force", "--json"
    )
    if exported.returncode:
        return Outcome(f"{heading}**Not exported.**\n\n{_quoted(_error(exported))}", exported.returncode)
    verified = edgeqkv("verify", job.out, "--against", job.model, "--json")
    card = _card(json.loads(exported.stdout), job.target)
    text = f"{heading}{_facts(json.loads(exported.stdout), job.target)}\n"
    if verified.returncode:
        return Outcome(f"{text}\n**Not verified.**\n\n{_quoted(_error(verified))}", verified.returncode)
    proof = card["verification"]
    if proof is not None:
        text += (
            f"\nVerified: largest difference of a logit {proof['max_abs_error']:.1e} "
            f"({proof['tolerance']:.1e} allowed), {proof['positions']} tokens.\n"
        )
    if not job.devices:
        return Outcome(text, 0)
    budgets = {name: edgeqkv("budget", job.out, "--device", name) for name in job.devices}
    text += "\n| device | fits |\n|---|---|\n"
    text += "".join(f"| {_plain(name)} | {_verdict(done.returncode)} |\n" for name, done in budgets.items())
    for name, done in budgets.items():
        said = done.stdout if done.returncode < 2 else _error(done)
        text += f"\n<details><summary>{_plain(name)}</summary>\n\n{_quoted(said)}\n</details>\n"
    text += "\nPredicted from the exported files; it has not run on these devices.\n"
    worst = max(done.returncode for done in budgets.values())
    return Outcome(text, worst, fits=worst == 0)


def _verdict(code: int) -> str:
    return {0: "yes", 1: "**no**"}.get(code, "not known")


def _card(manifest: dict[str, Any], target: str) -> dict[str, Any]:
    card: dict[str, Any] = manifest["targets"][target]
    return card


def _facts(manifest: dict[str, Any], target: str) -> str:
    artifact = _card(manifest, target)["artifact"]
    size = sum(file["bytes"] for file in manifest["files"].values())
    rows = [("variant", manifest["model"]["variant"]), ("form, weights", f"{artifact['form']}, {artifact['weights']}")]
    if artifact["context"] is not None:
        rows += [("state, context", f"{artifact['state']}, {artifact['context']} tokens")]
    rows += [("bundle", f"{size / 1e6:.1f} MB")]
    return "| | |\n|---|---|\n" + "".join(f"| {name} | {_plain(str(what))} |\n" for name, what in rows)


def _error(done: subprocess.CompletedProcess[str]) -> str:
    """The message of a command that failed: its last lines, or the one in its JSON."""
    try:
        return str(json.loads(done.stdout)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return (done.stderr or done.stdout)[-2000:]


def _plain(text: str) -> str:
    """Text that came from outside, such that it is no markup."""
    return "`" + text.replace("`", "'").replace("\n", " ").replace("|", "¦") + "`"


def _quoted(text: str) -> str:
    fence = "```"
    while fence in text:
        fence += "`"
    return f"{fence}text\n{text.strip()}\n{fence}\n"


def comment(text: str, marker: str, env: Mapping[str, str]) -> str:
    """Put the text on the pull request, in the place of an earlier one; what came of it, in words.

    A pull request from a fork has a token that may not comment, which is no reason to fail.
    """
    event = json.loads(Path(env["GITHUB_EVENT_PATH"]).read_text(encoding="utf-8"))
    number = event.get("pull_request", {}).get("number")
    if number is None:
        return "no comment: this is no pull request"
    repository = f"{env.get('GITHUB_API_URL', 'https://api.github.com')}/repos/{env['GITHUB_REPOSITORY']}"
    try:
        earlier = _earlier(f"{repository}/issues/{number}/comments", marker, env)
        body = {"body": f"{marker}\n{text}"}
        if earlier is None:
            _ask("POST", f"{repository}/issues/{number}/comments", env, body)
            return "commented"
        _ask("PATCH", f"{repository}/issues/comments/{earlier}", env, body)
        return "comment replaced"
    except urllib.error.URLError as error:
        return f"::warning::the comment was refused ({error}); the job's summary has the same text"


def _earlier(comments: str, marker: str, env: Mapping[str, str]) -> int | None:
    """The number of the comment that an earlier run left; people's are not touched, whatever is in them."""
    page = 1
    while found := _ask("GET", f"{comments}?per_page={_PAGE}&page={page}", env):
        for each in found:
            if each["body"].startswith(marker) and each["user"]["type"] == "Bot":
                return int(each["id"])
        if len(found) < _PAGE:
            return None
        page += 1
    return None


def _ask(method: str, url: str, env: Mapping[str, str], body: dict[str, str] | None = None) -> Any:
    request = urllib.request.Request(
        url,
        method=method,
        data=None if body is None else json.dumps(body).encode(),
        headers={
            "Authorization": f"Bearer {env['EDGEQKV_TOKEN']}",
            "Accept": "application/vnd.github+json",
            "X-GitHub-Api-Version": "2022-11-28",
        },
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


def _append(file: str | None, text: str) -> None:
    if file:
        with Path(file).open("a", encoding="utf-8") as out:
            out.write(text)


def main(env: Mapping[str, str]) -> int:
    job = Job.of(env)
    outcome = run(job)
    _append(env.get("GITHUB_STEP_SUMMARY"), outcome.text)
    fits = "" if outcome.fits is None else str(outcome.fits).lower()
    if "\n" not in job.out:
        _append(env.get("GITHUB_OUTPUT"), f"bundle={job.out}\nfits={fits}\n")
    sys.stdout.write(outcome.text)
    if env.get("EDGEQKV_COMMENT") == "true":
        sys.stdout.write(comment(outcome.text, job.marker, env) + "\n")
    return outcome.code


if __name__ == "__main__":
    sys.exit(main(os.environ))
