"""``edgeqkv doctor``: which backends can be used here, with which versions, and how to add what is missing."""

from __future__ import annotations

import platform
from dataclasses import dataclass

from edgeqkv.backends import TARGETS, backend
from edgeqkv.cli import console
from edgeqkv.cli.options import Json
from edgeqkv.extras import installed_version
from edgeqkv.process import TELEMETRY

__all__ = ["BackendHealth", "doctor", "examine", "platform_facts"]


def doctor(as_json: Json = False) -> None:
    """Say which backends can be used here, and how to add what is missing."""
    found = examine()
    if as_json:
        backends = {
            health.target: {"ready": health.ready, "packages": health.packages, "install": health.install}
            for health in found
        }
        console.print_json({**platform_facts(), "backends": backends})
        return
    console.print_facts("edgeqkv doctor", list(platform_facts().items()))
    console.print_blank()
    rows = [
        (
            health.title,
            "ready" if health.ready else "missing",
            ", ".join(f"{name} {version or '(missing)'}" for name, version in health.packages.items()),
            "" if health.ready else health.install,
        )
        for health in found
    ]
    console.print_table(("backend", "state", "packages", "to add it"), rows)


@dataclass(frozen=True)
class BackendHealth:
    """One backend's packages: name → version, None where it is missing, and the command that adds them."""

    target: str
    title: str
    packages: dict[str, str | None]
    install: str

    @property
    def ready(self) -> bool:
        return all(self.packages.values())


def examine() -> list[BackendHealth]:
    """Look at every backend's packages, and at torch, which reads checkpoints for all of them."""
    found = [BackendHealth("checkpoints", "reading checkpoints", _versions(("torch", "safetensors")), _pip("torch"))]
    library = _versions(("transformers", "huggingface_hub"))
    found.append(BackendHealth("huggingface", "reading Hugging Face models", library, _pip("huggingface")))
    found.append(BackendHealth("distill", "distilling in many processes", _versions(("accelerate",)), _pip("distill")))
    for name in TARGETS:
        target = backend(name)
        found.append(BackendHealth(name, target.title, _versions(target.packages), _pip(target.extra)))
    return found


def platform_facts() -> dict[str, str]:
    """Where this runs."""
    return {
        "edgeqkv": installed_version("edgeqkv") or "not installed as a package",
        "python": platform.python_version(),
        "platform": platform.platform(terse=True),
        "machine": platform.machine(),
        "telemetry": f"off ({', '.join('='.join(each) for each in TELEMETRY.items())} in every process of edgeqkv)",
    }


def _versions(packages: tuple[str, ...]) -> dict[str, str | None]:
    return {package: installed_version(package) for package in packages}


def _pip(extra: str) -> str:
    return f"pip install 'edgeqkv[{extra}]'"
