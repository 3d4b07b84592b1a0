"""The report: it starts with the finding, needs nothing from outside, is drawn alike twice, and takes any text for text."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest

from testbed.records import FILES
from testbed.report import terminal_summary, write_report
from testbed.report.finding import claims, finding, finding_parts
from testbed.report.hurt import hurt
from testbed.report.words import clock, percent, rate, seconds, value_words
from testbed.score import score_run
from tests.synthetic_run import synthetic_plan, write_synthetic_run


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    path = tmp_path_factory.mktemp("run")
    write_synthetic_run(path)
    write_report(path)
    return path


@pytest.fixture(scope="module")
def summary(run_dir):
    return json.loads((run_dir / "summary.json").read_text())


class Page(HTMLParser):
    """The text of a page in order, and everything it would load."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.text: list[str] = []
        self.loads: list[str] = []
        self.open: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        if tag in ("script", "link", "iframe", "img", "object"):
            self.loads.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "xlink:href") and value and not value.startswith("#"):
                self.loads.append(f"{tag} {name}={value}")

    def handle_endtag(self, tag):
        while self.open and self.open.pop() != tag:
            pass

    def handle_data(self, data):
        if "style" not in self.open and data.strip():
            self.text.append(data.strip())


def test_the_page_starts_with_the_finding(run_dir, summary):
    page = Page((run_dir / "report.html").read_text())
    text = " ".join(page.text)
    headline, more = finding_parts(summary)
    assert headline.startswith("5 of 6 subscribers lost service they were entitled to: ")
    assert text.index(headline) < text.index(more) < text.index("What was expected, and what was seen")
    assert text.index("What was expected") < text.index("Who was hurt, when, why")


def test_the_page_loads_nothing(run_dir):
    html = (run_dir / "report.html").read_text()
    assert Page(html).loads == []
    assert not re.search(r"url\((?!#)", html)
    assert "@import" not in html


def test_drawing_again_gives_the_same_bytes(run_dir):
    files = [path for path in run_dir.rglob("*") if path.is_file()]
    before = {path: path.read_bytes() for path in files}
    write_report(run_dir)
    assert {path: path.read_bytes() for path in run_dir.rglob("*") if path.is_file()} == before
    names = {path.name for path in files}
    assert {"report.html", "summary.json", "summary.md", "junit.xml"} <= names
    assert {f"{name}.svg" for name in ("timeline", "people", "groups", "round_trips", "goodput")} <= names


def test_plots_are_whole_svg_with_words_for_those_who_cannot_see_them(run_dir):
    for path in (run_dir / "plots").iterdir():
        root = ElementTree.fromstring(path.read_bytes())
        assert root.tag.endswith("svg") and root.get("role") == "img" and root.get("aria-label")
        text = "".join(root.itertext())
        assert "run 20241112T050000Z-3fa9c1" in text and "commit 0123abc" in text
        assert not re.search(r"\d{4}-\d\d-\d\dT\d\d", text), "a date would differ on a second drawing"


def test_colours_never_stand_alone(run_dir):
    """Each outcome that hurts has a pattern beside its colour, and its name and count in the legend."""
    text = (run_dir / "plots/timeline.svg").read_text()
    assert text.count("<pattern ") >= 4
    for label in ("blocked by mistake (n = 153)", "lost in the network (n = ", "passed (n = "):
        assert label in text


def test_names_from_a_scenario_are_text_everywhere(tmp_path):
    evil = "<script>alert('x')</script> & $\\alpha$ | *b*"
    plan = synthetic_plan()
    expectation = replace(plan.expectations[0], name=evil)
    write_synthetic_run(tmp_path, replace(plan, title=evil, description=evil, expectations=(expectation,)))
    html = write_report(tmp_path).read_text()
    assert "<script" not in html
    assert "&lt;script&gt;alert" in html
    suite = ElementTree.fromstring((tmp_path / "junit.xml").read_bytes())
    assert suite.find("testcase").get("name") == evil  # type: ignore[union-attr]
    assert "<script>" not in (tmp_path / "summary.md").read_text().replace("\\<script\\>", "")


def test_every_expectation_has_its_row(run_dir, summary):
    text = " ".join(Page((run_dir / "report.html").read_text()).text)
    for each in summary["expectations"]:
        assert each["name"] in text and f"{each['file']}:{each['line']}" in text
    assert "✗ failed" in text and "? inconclusive" in text and "30 samples; p99 needs 100" in text


def test_who_was_hurt_by_the_same_thing_is_one_row(summary):
    rows, left = hurt(summary)
    glitch = next(row for row in rows if "malfunction" in row.why)
    assert glitch.who.count("(") == 5 and glitch.attempts == 100 and glitch.when.startswith("20.2\u00a0s")
    assert rows[-1].outcome == "infra_down"  # what nobody is to blame for comes last
    assert re.fullmatch(
        r"\d+ attempts lost elsewhere in the network, no two of a service in a row, [\d.]+\u00a0s without service",
        left,
    )


def test_junit_counts_what_failed_and_what_could_not_be_decided(run_dir, summary):
    suite = ElementTree.fromstring((run_dir / "junit.xml").read_bytes())
    assert [suite.get(name) for name in ("tests", "failures", "skipped", "errors")] == ["9", "1", "1", "0"]
    [failure] = suite.findall("testcase/failure")
    assert failure.get("message", "").startswith(
        "scenarios/synthetic.scenario.yaml:40: asked: false blocks at most 0"
    )
    properties = {each.get("name"): each.get("value") for each in suite.findall("properties/property")}
    assert properties["false_block_ratio"] == str(summary["all"]["false_block"]["ratio"])


def test_the_terminal_gets_15_lines_with_the_failure_in_them(run_dir):
    lines = terminal_summary(run_dir)
    assert len(lines) <= 15
    assert all(len(line) <= 110 for line in lines[:-1])
    assert lines[0].startswith("FAILED: 5 of 6 subscribers")
    assert any("✗ false blocks at most 0" in line for line in lines)
    assert lines[-1] == f"Report: {run_dir / 'report.html'}"


def test_many_expectations_still_fit_the_terminal(tmp_path):
    many = tuple(replace(synthetic_plan().expectations[1], name=f"e{n}", line=n) for n in range(40))
    write_synthetic_run(tmp_path, synthetic_plan(expectations=many))
    score_run(tmp_path)
    lines = terminal_summary(tmp_path)
    assert len(lines) == 15 and lines[-1].endswith("more expectations in summary.json")
    (tmp_path / "report.html").write_text("drawn")
    lines = terminal_summary(tmp_path)
    assert len(lines) == 15 and "more expectations in the report" in lines[-2]
    assert lines[-1] == f"Report: {tmp_path / 'report.html'}"


def test_a_run_that_broke_at_once_has_a_report_that_claims_nothing(tmp_path):
    write_synthetic_run(tmp_path)
    for name in FILES.values():
        (tmp_path / name).unlink()
    (tmp_path / "broken.json").write_text(json.dumps({"reason": "BGP did not converge", "details": []}))
    html = write_report(tmp_path).read_text()
    assert "The run was broken: BGP did not converge." in html
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert {each["verdict"] for each in summary["expectations"]} == {"inconclusive"}
    suite = ElementTree.fromstring((tmp_path / "junit.xml").read_bytes())
    assert suite.get("errors") == "1" and suite.get("failures") == "0"


def test_what_makes_the_figures_doubtful_is_said(tmp_path):
    write_synthetic_run(tmp_path, noise=("the hypervisor took 9.0% of the CPU (limit 5%)",))
    data = (tmp_path / FILES["probe"]).read_bytes()
    (tmp_path / FILES["probe"]).write_bytes(data[: len(data) // 2])
    text = " ".join(Page(write_report(tmp_path).read_text()).text)
    assert (
        "Noisy: the machine was busy: the hypervisor took 9.0% of the CPU (limit 5%). Round trips and goodput of this run "
        "are not claimed; waits stand where they are far from their bound, and so does what passed or was blocked. "
        "To have the rest, close other programs and run again."
    ) in text
    assert (
        "stands although the machine was busy: 1.2 s from the bound, and no probe left more than 0.003 s late"
        in text
    )
    assert "probes.jsonl.gz ends before its proper end" in text
    assert "could not be decided" in text


def test_nobody_blocked_is_said_with_its_bound(summary):
    table = {"k": 0, "n": 1200, "ratio": 0.0, "low_ratio": 0.0, "high_ratio": 0.0032}
    calm = {**summary, "outcome": "passed", "all": {**summary["all"], "false_block": table}}
    assert finding(calm).startswith(
        "Nobody who was entitled was blocked: 0 of 1\u202f200 attempts (95 % interval 0\u00a0% to 0.3\u00a0%)."
    )


def test_claims(summary):
    assert claims(summary) == "Of 9 expectations 1 failed and 1 could not be decided."
    held = [each for each in summary["expectations"] if each["verdict"] == "passed"]
    assert claims({**summary, "expectations": held}) == "All 7 expectations held."
    assert claims({**summary, "expectations": []}) == "Nothing was expected of this run."


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (percent(0), "0 %"),
        (percent(1), "100 %"),
        (percent(0.9999), "99.99 %"),
        (percent(0.000001), "< 0.001 %"),
        (percent(0.05), "5 %"),
        (percent(None), "–"),
        (seconds(0.0123), "12.3 ms"),
        (seconds(0), "0 s"),
        (seconds(75), "75 s"),
        (seconds(3725), "1 h 02 min"),
        (clock(12_300_000_000), "12.3 s"),
        (clock(3_725_000_000_000), "1:02:05"),
        (rate(9_300_000), "9.3 Mbit/s"),
        (value_words("fail_mode", "word"), "failure behaviour"),
        (value_words(3.0, "count"), "3"),
    ],
)
def test_numbers_read_as_people_write_them(words, expected):
    assert words.replace("\u00a0", " ") == expected
