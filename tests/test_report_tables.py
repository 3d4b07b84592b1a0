"""What the page's tables and plots say: lost attempts alike in tile and text, counts alike, links and their back end named."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import datetime
from xml.etree import ElementTree

import pytest

from testbed.report import write_report
from testbed.report.facts import calibration, machine
from testbed.report.hurt import ended, hurt
from testbed.report.markdown import markdown
from testbed.report.plot_timeline import _asked_bins, probes_words
from testbed.report.story import read_story
from testbed.report.style import OUTCOME_LOOKS, class_look, swatch
from testbed.report.tables import round_trips, tiles
from testbed.report.when import When
from testbed.report.words import OUTCOME_HEADS, OUTCOME_WORDS, lasting, number, value_words
from tests.synthetic_run import write_synthetic_run


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    path = tmp_path_factory.mktemp("run")
    write_synthetic_run(path)
    write_report(path)
    return path


@pytest.fixture(scope="module")
def story(run_dir):
    return read_story(run_dir)


def plain(text: str) -> str:
    return text.replace("\u00a0", " ").replace("\u202f", " ")


def lost_one(summary):
    """A calm run in which one attempt of 0.2 s was lost elsewhere and nothing else happened."""
    row = {
        **summary["hurt"][0],
        "outcome": "infra_down",
        "attempts": 1,
        "from_ns": 0,
        "until_ns": 200_000_000,
    }
    outcomes = {**summary["all"]["outcomes"], "infra_down": 1}
    harm = {**summary["harm"], "person_ns_lost": 200_000_000, "person_ns_lost_to_false_blocks": 0}
    return {**summary, "hurt": [row], "all": {**summary["all"], "outcomes": outcomes}, "harm": harm}


def test_the_page_names_the_labs_own_kernel_where_it_was_played_in_one(story):
    kernel = {
        "key": "8c2883d44c327cdc",
        "release": "6.1.192",
        "source": "6.1.192-2",
        "compiler": "gcc 12",
        "built": "2026",
    }
    facts = dict(dict(machine(replace(story, run={**story.run, "kernel": kernel})))["Run"])
    assert facts["the lab's own kernel"].startswith("8c2883d44c327cdc: Linux 6.1.192 of 6.1.192-2, gcc 12")
    assert not [fact for fact in facts if fact.startswith("kernel ")]
    assert "the lab's own kernel" not in dict(dict(machine(story))["Run"])


def test_one_lost_attempt_is_told_alike_in_tile_and_text(story):
    summary = lost_one(story.summary)
    figure, what, more, kind = tiles(summary)[3]
    assert (plain(figure), what, kind) == (
        "0 s",
        "without service by false blocks, summed over subscribers",
        "good",
    )
    assert plain(more) == "0.2 s with 1 attempt lost elsewhere in the network"
    rows, left = hurt(summary)
    assert rows == [] and plain(left) == "1 attempt lost elsewhere in the network, 0.2 s without service"


def test_the_page_never_says_that_nobody_went_without_when_an_attempt_was_lost(story):
    from testbed.report.page import render

    html = render(replace(story, summary=lost_one(story.summary)), dict.fromkeys(_plots(), ""))
    assert "Nobody who was entitled to anything went without it." not in html
    assert (
        "<p>No enforcer kept anybody from anything they were entitled to. 1 attempt lost elsewhere in the network, "
        "0.2 s without service.</p>"
    ) in plain(html)
    nothing = {**lost_one(story.summary), "hurt": []}
    assert "Nobody who was entitled to anything went without it." in render(
        replace(story, summary=nothing), dict.fromkeys(_plots(), "")
    )


def test_the_longest_outage_is_said_to_be_of_what_kind(story):
    assert tiles(story.summary)[4][2].startswith("after a false block")
    one = lost_one(story.summary)
    assert tiles(one)[4][2].startswith("lost elsewhere in the network, not blocked")
    nothing = {**one, "hurt": [], "harm": {**one["harm"], "not_restored": []}}
    assert tiles(nothing)[4][2] == ""


def test_both_ends_of_a_span_are_in_one_unit():
    count, at = When(300), 10**9
    assert plain(count.span(60 * at, 182 * at)) == "1:00 to 3:02"
    assert plain(count.span(8 * at, 60 * at)) == "8.0 s to 60.0 s"
    local = When(7200, datetime.fromisoformat("2024-11-10T16:00:00+05:00"))
    assert local.span(60 * at, 4000 * at) == "16:01:00 to 17:06:40"


def test_whoever_lost_an_entitlement_is_named_apart(story):
    wait = {"registration": "freelancer/fra-wireguard", "state": "expired", "at_ns": 205 * 10**9}
    harm = {**story.summary["harm"], "revocations": [wait]}
    told = plain(ended({**story.summary, "harm": harm}))
    assert told.endswith("no false block: freelancer/fra-wireguard since 3:25 (expired)")
    many = {**harm, "revocations": [wait] * 11}
    assert ended({**story.summary, "harm": many}).endswith(" and 3 more")
    assert ended({**story.summary, "harm": {**harm, "revocations": []}}) == ""
    page = markdown({**story.summary, "harm": harm})
    assert "freelancer/fra-wireguard since" in page


def test_a_line_of_round_trips_runs_on_between_probes_and_stops_where_nobody_asks():
    every_third = _asked_bins(set(range(0, 150, 3)), 150)
    assert every_third.tolist() == list(range(0, 150, 3))  # no hole where nobody was asked
    paused = _asked_bins({0, 2, 4, 6, 100, 102, 104, 300}, 200)
    assert paused.tolist() == [0, 2, 4, 6, 6.5, 100, 102, 104]  # 6.5 has no probe: the line stops
    assert _asked_bins(set(), 9).tolist() == [] and _asked_bins({4}, 9).tolist() == [4]


def _plots():
    return ("timeline", "people", "groups", "round_trips", "goodput")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (lasting(0.2), "0.2 s"),
        (lasting(0), "0 s"),
        (lasting(0.05), "50 ms"),
        (lasting(92.4), "92.4 s"),
        (value_words(0.2 / 60, "person-minutes"), "0.2 s"),
        (value_words(0.5, "person-minutes"), "30 s"),
        (value_words(1.539166667, "person-minutes"), plain(lasting(92.35))),
        (value_words(1234.0, "count"), "1 234"),
        (number(2475), "2 475"),
        (probes_words(986, 986), "n = 986 attempts"),
        (probes_words(580, 58), "n = 58 attempts, 580 packets"),
    ],
)
def test_durations_and_counts(words, expected):
    assert plain(words) == expected


def test_the_page_heads_its_columns_shortly_and_blames_no_network_for_the_policy(run_dir):
    html = (run_dir / "report.html").read_text()
    assert set(OUTCOME_HEADS) == set(OUTCOME_WORDS)
    for outcome, head in OUTCOME_HEADS.items():
        assert f'title="{OUTCOME_WORDS[outcome]}">{head}</th>' in html
    assert '<th class="n">stopped or lost</th>' in html
    assert "<th>Became</th>" in html and "<th>Was</th>" not in html


def test_round_trips_without_an_answer_are_not_called_lost(story):
    rows = {row["protocol"]: row for row in round_trips(story.summary)}
    assert plain(rows["wireguard"]["n"]).endswith(" attempts")
    assert re.fullmatch(r"– \(\d+ of \d+ had no answer\)", plain(rows["wireguard"]["p99"]))


def test_the_links_and_what_carried_them_are_named(story):
    health = {**story.summary["health"], "links": {"backend": "nfqueue", "links": {}}}
    health["links"]["links"] = {"a/ab": {"packets": 1000, "lost": 2}, "a/ba": {"packets": 500, "lost": 1}}
    facts = dict(machine(replace(story, summary={**story.summary, "health": health})))
    assert list(facts) == ["Run", "Machine", "Links", "Programs"]
    assert [(fact, plain(value)) for fact, value in facts["Links"]] == [
        ("back end used", "nfqueue: a program of the test-bed holds the packets"),
        ("packets carried", "1 500"),
        ("lost on purpose", "3"),
        ("calibration", "2 figures measured before use, none out of tolerance"),
    ]
    assert ("kernel", "6.1.0-21-amd64") in facts["Machine"]
    assert ("python", "3.11.2") in facts["Programs"]


def test_calibration_is_one_row_a_link_and_figure_with_the_worst_miss_first(story):
    rows = [
        {"link": "b", "figure": "rate", "asked": 100, "measured": measured, "is_within": measured < 110}
        for measured in (101, 120)
    ]
    rows += [
        {"link": "a", "figure": "delay", "asked": 20_000_000, "measured": 20_200_000, "is_within": True}
    ] * 4
    rows += [{"link": "a", "figure": "loss", "asked": 0, "measured": 0.0, "is_within": True}]
    found = calibration(replace(story, calibration=rows))
    assert [
        (row.link, row.figure, plain(row.asked), plain(row.measured), plain(row.worst)) for row in found
    ] == [
        ("b", "rate", "100 bit/s", "101 bit/s to 120 bit/s", "20 %"),
        ("a", "delay", "20 ms", "20.2 ms", "1 %"),
    ]
    assert [row.is_within for row in found] == [False, True]


def test_markdown_has_a_broken_runs_details_as_a_list_of_their_own(story):
    broken = {"reason": "an event failed", "details": ["first", "second"]}
    text = markdown({**story.summary, "outcome": "broken", "broken": broken})
    assert "\n\n* first\n* second\n\n| | asked |" in text


def test_markdown_tells_lost_attempts_and_noise(story):
    summary = {
        **lost_one(story.summary),
        "outcome": "passed",
        "noise": ["the CPU was idle only 1% of the time"],
    }
    lines = plain(markdown(summary)).splitlines()
    assert "1 attempt lost elsewhere in the network, 0.2 s without service." in lines
    assert any(
        line.startswith("Noisy: the machine was busy: the CPU was idle only 1% of the time.")
        for line in lines
    )


def test_lines_of_a_plot_differ_in_colour_or_dash_and_neighbours_in_both():
    looks = [class_look(position) for position in range(12)]
    assert len(set(looks)) == 12
    for one, next_one in zip(looks, looks[1:], strict=False):
        assert one[0] != next_one[0] and one[1] != next_one[1]


def test_a_legend_has_the_pattern_of_the_bars():
    for outcome, look in OUTCOME_LOOKS.items():
        patch = swatch(outcome)
        assert (patch.get_hatch() or "") == look.hatch
        assert patch.get_label() == look.label and patch.get_linewidth() > 0


def test_each_plot_counts_attempts(run_dir, story):
    text = plain("".join(ElementTree.fromstring((run_dir / "plots/round_trips.svg").read_bytes()).itertext()))
    total = story.summary["rtt"]["wireguard"]["attempts"]
    assert f"wireguard (n = {total} attempts," in text
    timeline = plain(
        "".join(ElementTree.fromstring((run_dir / "plots/timeline.svg").read_bytes()).itertext())
    )
    assert f"VPN (n = {total} attempts, " in timeline
    assert json.loads((run_dir / "summary.json").read_text())["rtt"]["wireguard"]["n"] == total
