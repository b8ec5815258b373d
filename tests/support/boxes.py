"""A page in Chromium, at a width: where its words and pictures are, and which of them lie on one another."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
HEIGHT = 12_000

MEASURE = """
<script>
function measured(frame) {
  const page = frame.contentDocument, styleOf = (element) => page.defaultView.getComputedStyle(element), found = [];
  const hidden = (element) => element.closest('details:not([open]) > :not(summary)') !== null;
  const unseen = (element) => element.closest('thead') && styleOf(element.closest('thead')).position === 'absolute';
  const walker = page.createTreeWalker(page.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const text = walker.currentNode, parent = text.parentElement;
    if (!text.data.trim() || parent.closest('style,title,desc') || hidden(parent) || unseen(parent)) continue;
    const range = page.createRange();
    range.selectNodeContents(text);
    for (const box of range.getClientRects()) {
      if (box.width > 1) found.push([text.data.trim().slice(0, 40), 'text', box.left, box.top, box.right, box.bottom]);
    }
  }
  for (const picture of page.querySelectorAll('figure svg, .track, .parts, .zoom, .mini')) {
    if (hidden(picture)) continue;
    const box = picture.getBoundingClientRect();
    found.push([picture.getAttribute('class') || picture.tagName, 'picture', box.left, box.top, box.right, box.bottom]);
  }
  const first = [...page.querySelectorAll('.answer .sentence')].map((each) => each.getBoundingClientRect().bottom);
  return { found, first, wide: page.documentElement.scrollWidth };
}
addEventListener('load', () => {
  const told = [...document.querySelectorAll('iframe')].map(measured);
  document.body.innerHTML = '<pre></pre>';
  document.querySelector('pre').textContent = 'TOLD' + JSON.stringify(told) + 'END';
});
</script>
"""


@dataclass(frozen=True)
class Box:
    """What is there, and where: CSS pixels from the page's upper left corner."""

    what: str
    kind: str
    left: float
    top: float
    right: float
    bottom: float

    def covers(self, other: Box) -> bool:
        """Whether the two share more than their edges."""
        wide = min(self.right, other.right) - max(self.left, other.left)
        high = min(self.bottom, other.bottom) - max(self.top, other.top)
        return wide > 1 and high > 3  # lines of text stand closer than their boxes are high


@dataclass(frozen=True)
class Layout:
    """A page's boxes, its width with all that sticks out of it, and where the sentences of the devices end."""

    boxes: tuple[Box, ...]
    width: float
    sentences: tuple[float, ...]

    @property
    def overlaps(self) -> list[tuple[str, str]]:
        """What lies on something else. A picture may hold its own words."""
        found = []
        ordered = sorted(self.boxes, key=lambda box: box.top)
        for index, box in enumerate(ordered):
            for other in ordered[index + 1 :]:
                if other.top >= box.bottom:
                    break
                inside = {box.kind, other.kind} == {"text", "picture"} and "svg" in (box.what, other.what)
                if box.covers(other) and not inside:
                    found.append((box.what, other.what))
        return found


def browser() -> str | None:
    """Chromium or Chrome, where it is installed."""
    return next(filter(None, map(shutil.which, BROWSERS)), None)


def layouts(pages: Sequence[tuple[str, int]], folder: Path, program: str) -> list[Layout]:
    """Lay pages out, each at a width, and measure them."""
    wrapper = folder / "wrapper.html"
    frames = [
        f'<iframe style="border:0;width:{width}px;height:{HEIGHT}px" srcdoc="{html.escape(page)}"></iframe>'
        for page, width in pages
    ]
    wrapper.write_text(f"<!doctype html><body>{''.join(frames)}{MEASURE}", encoding="utf-8")
    command = [
        program, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--virtual-time-budget=5000",
        f"--user-data-dir={folder / 'profile'}", "--window-size=1600,1200", "--dump-dom", wrapper.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    told = re.search(r"TOLD(.*)END", done.stdout, re.DOTALL)
    assert told, done.stderr[-2000:]
    return [
        Layout(tuple(Box(*box) for box in each["found"]), each["wide"], tuple(each["first"]))
        for each in json.loads(html.unescape(told[1]))
    ]


def pages_on_paper(page: str, folder: Path, program: str) -> int:
    """How many sheets a page takes when it is printed."""
    source, printed = folder / "printed.html", folder / "printed.pdf"
    source.write_text(page, encoding="utf-8")
    command = [
        program, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}",
        "--no-pdf-header-footer", f"--print-to-pdf={printed}", source.as_uri(),
    ]  # fmt: skip
    subprocess.run(command, capture_output=True, check=True, timeout=120)
    return len(re.findall(rb"/Type\s*/Page[^s]", printed.read_bytes()))
