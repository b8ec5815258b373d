"""The report as JSON and as a page: complete, self-contained, and with every assumption marked."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from conftest import DATA

import edgeqkv
from edgeqkv.budget.evaluate import evaluate
from edgeqkv.budget.html import render
from edgeqkv.budget.measure import Comparison, Measured, Measurement
from edgeqkv.budget.provenance import provenance
from edgeqkv.budget.report import Report, to_json
from edgeqkv.budget.sentences import amount, headline, sentence
from edgeqkv.budget.speed import read_bench
from edgeqkv.budget.verdicts import Confidence, Verdict

DEVICES = ["iphone-15", "iphone-17-pro", "pixel-9-pro", "raspberry-pi-5-8gb", "hexagon-v75"]
VOID = {"meta", "link", "br", "input", "img", "hr"}


@pytest.fixture(scope="module")
def report() -> Report:
    return evaluate(DATA / "k_eq_v_gqa.pt", DEVICES)


@pytest.fixture(scope="module")
def page(report: Report) -> str:
    return render(report)


class Page(HTMLParser):
    """Collects a page's elements, and checks that they close in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.unknown: list[str] = []
        self._open: list[str] = []
        self._marked: list[int] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = {name: value or "" for name, value in attrs}
        self.elements.append((tag, attributes))
        if tag in VOID:
            return
        self._open.append(tag)
        if attributes.get("data-status") == "unknown":
            assert "unknown" in attributes["class"]
            self._marked.append(len(self._open))
            self.unknown.append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag
        if self._marked and len(self._open) < self._marked[-1]:
            self._marked.pop()

    def handle_data(self, data: str) -> None:
        if self._marked:
            self.unknown[-1] += data


def test_the_page_needs_nothing_else(page: str) -> None:
    for tag, attributes in Page(page).elements:
        assert tag not in ("script", "iframe", "object", "img")
        for name, value in attributes.items():
            if name == "href" and tag == "a":
                continue  # sources, which a reader may follow
            assert "://" not in value or name == "xmlns", (tag, name, value)
    style = re.search(r"<style>(.*?)</style>", page, re.DOTALL)
    assert style
    assert "url(" not in style[1]
    assert "@import" not in style[1]


def test_the_page_is_for_both_themes_small_screens_and_paper(page: str) -> None:
    assert page.startswith("<!doctype html>")
    assert '<html lang="en">' in page
    for query in ("prefers-color-scheme: dark", "max-width: 46rem", "@media print"):
        assert query in page
    assert "width=device-width" in page


def test_every_drawing_has_a_text_alternative(page: str) -> None:
    drawings = re.findall(r'<svg[^>]*role="img"[^>]*>(.*?)</svg>', page, re.DOTALL)
    assert len(drawings) == len(DEVICES)
    for drawing in drawings:
        assert re.match(r"<title>[^<]+</title><desc>[^<]+</desc>", drawing)
    gauges = re.findall(r'<div class="gauge[^>]*>', page)
    assert len(gauges) == 4  # nobody knows the limit of one of the five
    assert all(re.search(r'role="img" aria-label="[^"]+ of [^"]+"', gauge) for gauge in gauges)
    assert page.count('aria-hidden="true"') >= len(re.findall(r"<svg", page)) - len(drawings)


def test_limits_are_drawn_where_there_are_any(report: Report, page: str) -> None:
    drawings = re.findall(r'<svg[^>]*role="img"[^>]*>(.*?)</svg>', page, re.DOTALL)
    for answer, chart in zip(report.answers, drawings, strict=True):
        assert chart.count('class="limit"') == sum(limit.bytes is not None for limit in answer.limits)


def test_what_is_assumed_to_fit_is_not_green(report: Report, page: str) -> None:
    articles = re.findall(r'<article class="answer ([^"]+)">', page)
    for answer, style in zip(report.answers, articles, strict=True):
        assert str(answer.confidence) in style.split()
        if answer.verdict == Verdict.FITS:
            assert ("good" in style.split()) == (answer.confidence != Confidence.ASSUMED)
    assert "hoped assumed" in articles


def test_the_answer_comes_first_in_a_sentence(report: Report, page: str) -> None:
    assert page.index(headline(report.answers)) < page.index('<article class="answer')
    for answer in report.answers:
        assert str(sentence(answer).numbers) in unescape(page)
    assert page.index('class="answers"') < page.index("<h2", page.index('class="devices"'))
    assert page.count("The same model as other variants") == 1
    assert page.index('class="devices"') < page.index("The same model as other variants")


def test_terms_and_sources_are_folded(page: str) -> None:
    folded = "".join(re.findall(r"<details.*?</details>", page, re.DOTALL))
    assert "note-1" in folded
    assert "Formula" in folded
    assert "<details open" not in page


def test_a_small_model_has_no_absurd_speed_and_no_perplexity_of_the_papers(page: str) -> None:
    assert "tokens/s" not in page
    assert "caches" in page
    assert "perplexity" not in page.lower()


def test_the_foot_says_what_it_was_made_of(report: Report) -> None:
    made = provenance(["edgeqkv", "budget", "a b.pt", "--html", "x.html"], DATA / "k_eq_v_gqa.pt")
    page = unescape(render(dataclasses.replace(report, made=made)))
    assert hashlib.sha256((DATA / "k_eq_v_gqa.pt").read_bytes()).hexdigest() in page
    assert "edgeqkv budget 'a b.pt' --html x.html" in page
    assert re.search(r"Made on \d{4}-\d{2}-\d{2} by edgeqkv \d", page)


def test_a_measured_speed_is_told(report: Report, tmp_path: Path) -> None:
    file = tmp_path / "bench.json"
    decode = [{"fill": fill, "milliseconds": {"p50": time}} for fill, time in ((1, 8.0), (1000, 16.0), (500, 9.0))]
    file.write_text(json.dumps({"results": [{"decode": decode}, {"decode": []}]}))
    measured = dataclasses.replace(report, speed=read_bench(file))
    assert "62 tokens/s, measured with 1,000 before" in render(measured)
    assert "62 tokens/s" in to_json(measured)["devices"][0]["speed"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "not what 'edgeqkv bench DIR --json' prints: results: Field required"),
        ({"results": [{"decode": []}]}, "has no decoding"),
        ({"results": [{"decode": [{"fill": 1}]}]}, "milliseconds: Field required"),
        ({"results": [{"decode": [{"fill": 1, "milliseconds": {"p50": -1}}]}]}, "greater than 0"),
    ],
    ids=["empty", "encoder", "no time", "negative"],
)
def test_what_is_no_result_of_bench_is_refused(content: object, message: str, tmp_path: Path) -> None:
    (tmp_path / "bench.json").write_text(json.dumps(content))
    with pytest.raises(edgeqkv.InputError, match=message):
        read_bench(tmp_path / "bench.json")


def test_every_unknown_number_is_marked(report: Report, page: str) -> None:
    marked = Page(page).unknown
    assert all(text.endswith("?") for text in marked)
    for answer in report.answers:
        for limit in answer.limits:
            if limit.status == "unknown":
                assert f"{'not known' if limit.bytes is None else amount(limit.bytes)}?" in marked
        for each in answer.constraints:
            if each.status == "unknown":
                assert f"{each.detail}?" in marked
        for term in answer.candidate.footprint.terms:
            if term.assumed:
                assert f"{amount(term.bytes)}?" in marked
        if answer.candidate.footprint.assumes:
            assert f"{amount(answer.candidate.footprint.peak)}?" in marked


def test_community_figures_carry_their_own_mark(report: Report, page: str) -> None:
    limit = next(limit for limit in report.answers[0].limits if limit.status == "community-measured")
    assert re.search(rf'data-status="community-measured">{amount(limit.bytes or 0)}<abbr title="[^"]+">~', page)


def test_sources_are_footnotes_that_are_referred_to(page: str) -> None:
    notes = re.findall(r'<li id="note-(\d+)">', page)
    assert notes == [str(number) for number in range(1, len(notes) + 1)]
    assert {*re.findall(r'href="#note-(\d+)"', page)} == {*notes}
    assert "https://github.com/a-ghorbani/pocketpal-ai/pull/651" in page


def test_names_from_outside_are_escaped(report: Report) -> None:
    hostile = dataclasses.replace(report, subject='<script>alert("x")</script>')
    assert "<script>" not in render(hostile)


def test_the_page_shows_a_measurement(report: Report) -> None:
    phase = Measured(100, 60, 40)
    measured = report.with_measured("onnx", Measurement(phase, {"load": phase}), (Comparison("peak", 110, 100),))
    assert "+10.0 %" in render(measured)
    assert to_json(measured)["measured"]["onnx"]["comparison"][0]["error"] == pytest.approx(0.1)


def test_a_report_without_devices_has_its_footprint(tmp_path: Path) -> None:
    alone = evaluate(DATA / "k_eq_v_gqa.pt")
    assert alone.passed
    assert len(alone.candidates) == 1
    assert Page(render(alone)).elements


def test_a_device_with_two_exports_counts_once() -> None:
    report = evaluate(DATA / "k_eq_v_gqa.pt", ["galaxy-s25", "iphone-15"])
    assert len(report.answers) == 3, "the phone's NPU gets an export of its own"
    assert headline(report.answers) == "It fits on 1 of 2 devices, and on 1 more if what is assumed holds."


def test_json_holds_every_answer(report: Report) -> None:
    told: dict[str, Any] = json.loads(json.dumps(to_json(report)))
    assert [device["device"] for device in told["devices"]] == DEVICES
    assert told["passed"]
    assert told["devices"][-1]["npu_verdict"] == "demands met", "Hexagon gets an export of its own"
    first = told["devices"][0]
    assert first["limits"][0]["bytes"] == 3_120_000_000
    assert first["limits"][0]["status"] == "community-measured"
    assert first["limits"][0]["sources"]
    assert {row["variant"] for row in first["variants"]} >= {"qkv", "q-k=v+gqa4"}
    assert first["confidence"] == "assumed"  # of Core ML, what it takes
    assert first["npu_verdict"] == "cannot run"
    assert first["sentence"].startswith("52.8 MB? of 3.12 GB, 1.7 %. Room for 59 ×.")
    assert first["variants"][0]["curve"][-1] == [64, first["variants"][0]["peak"]]
    terms = told["candidates"][0]["terms"]
    assert sum(term["bytes"] for term in terms if "prefill" in term["phases"]) >= told["candidates"][0]["peak_bytes"]


def test_the_public_function_takes_paths_models_and_bundles(tmp_path: Path) -> None:
    model = edgeqkv.load(DATA / "k_eq_v_gqa.pt")
    bundle = edgeqkv.export(model, "onnx", out=tmp_path / "b", verify=False)
    for subject in (model, bundle, tmp_path / "b", str(DATA / "k_eq_v_gqa.pt")):
        found = edgeqkv.budget(subject, device="pixel-9-pro", context=32)
        assert found.answers[0].device == "pixel-9-pro"
        assert found.candidates[0].plan.context == 32
    with pytest.raises(edgeqkv.InputError, match="a context of 4096 is impossible"):
        edgeqkv.budget(bundle, context=4096)
    with pytest.raises(edgeqkv.InputError, match="a context of 4096 is impossible"):
        edgeqkv.budget(model, context=4096)


def test_sizes_are_decimal_like_the_limits() -> None:
    assert amount(3_120_000_000) == "3.12 GB"
    assert amount(20_971_520) == "21.0 MB"
