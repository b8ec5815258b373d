"""Complete the Gradle wrapper: gradlew, gradlew.bat and gradle-wrapper.jar, which Gradle itself makes.

    python device_tests/android/wrapper.py

Android Studio needs none of them: it reads gradle-wrapper.properties. A command line does. The Gradle that they
name is
downloaded (140 MB), compared with the checksum that stands there, and asked to write its wrapper; it needs Java 17 or
newer.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
import urllib.request
import zipfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
MADE = ("gradlew", "gradlew.bat", "gradle/wrapper/gradle-wrapper.jar")


class WrapperError(Exception):
    """The wrapper cannot be made; the message says why, and what to do."""


def settings(project: Path) -> dict[str, str]:
    """What gradle-wrapper.properties says."""
    text = (project / "gradle" / "wrapper" / "gradle-wrapper.properties").read_text(encoding="utf-8")
    pairs = (line.split("=", 1) for line in text.splitlines() if "=" in line)
    return {name: value.replace("\\:", ":") for name, value in pairs}


def download(url: str, checksum: str, place: Path) -> Path:
    """Download a file whose SHA-256 is known.

    Raises:
        WrapperError: it cannot be had, or is another.
    """
    file = place / url.rsplit("/", 1)[1]
    try:
        with urllib.request.urlopen(url) as stream, file.open("wb") as out:
            shutil.copyfileobj(stream, out)
    except OSError as error:
        raise WrapperError(f"{url} cannot be downloaded: {error}") from error
    with file.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != checksum:
        raise WrapperError(
            f"{url} has the SHA-256 {found}, and gradle-wrapper.properties says {checksum}. Compare both with "
            f"https://gradle.org/release-checksums/"
        )
    return file


def complete(project: Path) -> None:
    """Have Gradle write its wrapper, in a folder of its own, and copy it into the project, whole or not at all.

    Raises:
        WrapperError: Gradle cannot be had, or does not do it.
    """
    said = settings(project)
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        with zipfile.ZipFile(download(said["distributionUrl"], said["distributionSha256Sum"], place)) as archive:
            archive.extractall(place)
        (gradle,) = place.glob("*/bin/gradle")
        gradle.chmod(0o755)
        empty = place / "empty"
        empty.mkdir()
        (empty / "settings.gradle").touch()  # an empty project: this one's needs Google's plugins
        command = [gradle, "--no-daemon", "wrapper", "--no-validate-url", "--gradle-distribution-url"]
        done = subprocess.run(
            [*command, said["distributionUrl"]], cwd=empty, capture_output=True, text=True, check=False
        )
        missing = [name for name in MADE if not (empty / name).is_file()]
        if done.returncode or missing:
            last = (done.stderr.strip() or done.stdout.strip() or "it wrote nothing").splitlines()[-1]
            raise WrapperError(f"Gradle did not write its wrapper: {last}")
        for name in MADE:
            shutil.copy(empty / name, project / f"{name}.new")
            (project / f"{name}.new").replace(project / name)


def main() -> int:
    try:
        complete(HERE)
    except WrapperError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"written: {', '.join(MADE)}. Build with ./gradlew assembleDebug")
    return 0


if __name__ == "__main__":
    sys.exit(main())
