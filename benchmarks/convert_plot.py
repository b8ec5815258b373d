"""Draws what `benchmarks.convert` measured: ``docs/convert.svg``.

    python -m benchmarks.convert_plot   (needs matplotlib)

A panel a variant; in it a method a row, a seed a dot, and their mean a bar: perplexity above the teacher's on the test
text. The scale is logarithmic, because methods differ by factors.
"""

from __future__ import annotations

import json
from pathlib import Path
from statistics import mean
from typing import Any, Final

import matplotlib

from benchmarks.measure import RESULTS

matplotlib.use("svg")
matplotlib.rcParams |= {"svg.hashsalt": "edgeqkv", "svg.fonttype": "none", "font.family": "sans-serif", "font.size": 9}

METHODS: Final = {
    "naive": "keys for values, mean of heads",
    "naive, distilled": "the same, distilled",
    "weights": "weights' SVD",
    "covariance": "inputs' covariance",
    "ours": "convert",
    "ours, distilled": "convert --distill",
    "scratch": "trained from scratch",
}
VARIANTS: Final = ("q-k=v", "q-k=v+gqa4", "q-k=v+gqa2", "q-k=v+mqa")
SMALLEST: Final = 0.001  # what is drawn of a method that loses less, or nothing


def values(rows: list[dict[str, Any]], variant: str, method: str) -> list[float]:
    """One a seed, in percent."""
    found = [row["test"] for row in rows if row.get("variant") == variant and row["method"] == method]
    return [100 * max(value, SMALLEST) for value in found]


def main() -> None:
    """Draw every size that has results of several seeds."""
    from matplotlib import pyplot

    results = json.loads((RESULTS / "convert.json").read_text())["results"]
    sizes = {name: entry["rows"] for name, entry in results.items() if len({r["seed"] for r in entry["rows"]}) > 1}
    figure, axes = pyplot.subplots(2 * len(sizes), 2, figsize=(9, 4.8 * len(sizes)), squeeze=False)
    for index, (name, rows) in enumerate(sizes.items()):
        panels = axes[2 * index : 2 * index + 2].flat
        for variant, panel in zip(VARIANTS, panels, strict=True):
            shown = {method: found for method in METHODS if (found := values(rows, variant, method))}
            for place, (method, found) in enumerate(shown.items()):
                panel.barh(place, mean(found), color="#2f6db3" if method.startswith("ours") else "#9db8d9")
                panel.plot(found, [place] * len(found), "o", color="#222222", markersize=3)
            panel.set_xscale("log")
            panel.set_xlim(0.5, 100)
            panel.set_xticks([1, 10, 100], ["1", "10", "100"])
            panel.minorticks_off()
            panel.set_title(f"{variant}, {name}", fontsize=9)
            panel.set_yticks(range(len(shown)), [METHODS[method] for method in shown])
            panel.invert_yaxis()
            panel.set_xlabel("perplexity above, %")
    figure.tight_layout()
    figure.savefig(Path(__file__).parents[1] / "docs" / "convert.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
