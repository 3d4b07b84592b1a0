"""The command as people type it: what it says of the shipped examples, of two policies, of damage, and of itself."""

from __future__ import annotations

import json
import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from enforcer.cli import main
from enforcer.policy import load_policy
from enforcer.replay import command, whose
from enforcer.replay.judge import REASONS, RECOGNISED, Judge
from enforcer.replay.lines import Lines
from enforcer.replay.result import Result
from enforcer.replay.source import Source
from enforcer.replay.tally import Pairs, Rows
from tests import replay_examples as examples
from tests.replay_command import ANSWER, BOTH, LOGS, data, log_of, replay
from tests.replay_examples import FOLDER

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "replay.md"
AGAINST = ["--against", str(FOLDER / "border-by-line.policy.yaml")]


def near(found):
    return {pair["subscriber"]: (pair["nearest"] or {}).get("miss") for pair in found["top"]["pairs"]}


def test_the_shipped_examples_are_what_their_maker_makes(tmp_path):
    examples.write(tmp_path)
    for made in sorted(tmp_path.iterdir()):
        if (
            made.suffix != ".parquet"
        ):  # its bytes depend on pyarrow's version; test_enforcer_replay_logs.py compares its lines
            assert made.read_bytes() == (FOLDER / made.name).read_bytes(), (
                f"run python -m tests.replay_examples ({made.name})"
            )


@pytest.mark.parametrize("name", LOGS)
def test_every_log_of_the_example_comes_to_the_same(name):
    found = data(name, "--inside", "203.0.113.0/24")
    assert {reason: sums["flows"] for reason, sums in found["by_reason"].items()} == {
        "not-vpn": 127,
        "registered": 92,
        "exempt": 2,
        "unregistered": 36,
    }
    assert {
        person["registrant"]: (person["flows"], list(person["misses"])) for person in found["registrants"]
    } == {
        "ayesha": (12, ["not-valid-then"]),
        "relief-ngo": (8, ["other-line"]),
        "softhouse": (8, ["other-endpoint"]),
        None: (8, ["nobody"]),
    }
    assert near(found)["203.0.113.33"] is None and near(found)["203.0.113.130"] == "not-valid-then"
    assert found["flow_log"]["gre"]["flows"] == 2
    assert found["flow_log"]["checked_against_decide"] > 257


@pytest.mark.parametrize("name", [*LOGS, "border.pcap"])
def test_the_parts_come_to_the_whole(name):
    found = data(name, *AGAINST, "--top", 100)
    for side in (found, found["against"]):
        for sum_ in ("flows", "packets", "bytes"):
            assert sum(each[sum_] for each in side["by_reason"].values()) == found["source"][sum_]
            assert sum(each[sum_] for each in side["stopped_by_protocol"].values()) == side["stopped"][sum_]
    stopped = found["stopped"]["flows"]
    for people in (
        found["registrants"],
        found["top"]["subscribers"],
        found["top"]["endpoints"],
        found["top"]["pairs"],
    ):
        assert sum(each["flows"] for each in people) == stopped
    moved = sum(change["flows"] for change in found["against"]["changes"])
    assert moved == sum(
        each["passes_only_under_the_other"]["flows"] for each in found["against"]["registrants"]
    )
    assert found["against"]["stopped"]["flows"] == stopped - moved


def test_only_the_capture_shows_a_vpn_on_a_port_that_says_nothing():
    hidden = "198.51.100.170:8443"
    log, capture = data("border.parquet"), data("border.pcap", "--top", 100)
    assert hidden not in {each["endpoint"] for each in log["top"]["endpoints"]}
    assert hidden in {each["endpoint"] for each in capture["top"]["endpoints"]}
    may = log["flow_log"]["could_hold_a_first_message"]["flows"]
    text = replay("border.parquet")
    assert may > 0 and f"first-packet recognition needs packets. {may} flows" in text


def test_a_second_policy_shows_who_gains():
    found = data("border.pcap", *AGAINST)["against"]
    assert [(change["from"], change["to"], change["flows"]) for change in found["changes"]] == [
        ("unregistered", "registered", 4)
    ]
    assert [
        (each["registrant"], each["passes_only_under_the_other"]["flows"]) for each in found["registrants"]
    ] == [("softhouse", 4)]
    text = replay("border.pcap", *AGAINST)
    assert "passes only under border-by-line" in text
    same = replay("border.pcap", "--against", FOLDER / "border.policy.yaml")
    assert "No flow's verdict changes." in same


def test_another_allowlist_for_the_second_policy(tmp_path):
    other = tmp_path / "other.json"
    entries = [each for each in examples.ALLOWLIST["entries"] if each["registrant"] != "softhouse"]
    other.write_text(json.dumps({**examples.ALLOWLIST, "entries": entries}))
    options = ["--against", FOLDER / "border.policy.yaml", "--against-allowlist", other]
    for name in ("border.parquet", "border.pcap"):
        found = data(name, *options)["against"]
        (person,) = found["registrants"]
        assert person["registrant"] == "softhouse" and person["stopped_only_by_the_other"]["flows"] > 0
        assert {(change["from"], change["to"]) for change in found["changes"]} == {
            ("registered", "unregistered")
        }
    assert "--against POLICY" in replay("border.pcap", "--against-allowlist", other, code=2)


def test_a_moment_given_moves_what_is_valid():
    before, after = (
        data("border.parquet", "--at", f"2024-11-10T{clock}:00Z") for clock in ("09:29", "09:31")
    )
    names = [{each["registrant"] for each in found["registrants"]} for found in (before, after)]
    assert "ayesha" not in names[0] and "ayesha" in names[1]
    assert before["at"] == "2024-11-10T09:29:00.000Z"


def test_an_observing_policy_says_that_nothing_is_stopped(tmp_path):
    policy = tmp_path / "o.policy.yaml"
    policy.write_text((FOLDER / "border.policy.yaml").read_text().replace("mode: enforce", "mode: observe"))
    result = CliRunner().invoke(
        main, ["replay", str(FOLDER / "border.pcap"), "--policy", str(policy), *BOTH[2:]]
    )
    assert "would have been recorded, and passed" in result.output and "dropped" not in result.output


@pytest.mark.parametrize(
    ("row", "either", "opener"),
    [
        ("203.0.113.7,198.51.100.10,17,40000,51820,1,200", "unregistered", "unregistered"),
        (ANSWER, "unregistered", "not-vpn"),
        (
            "192.0.2.10,203.0.113.7,17,443,51820,1,200",
            "not-vpn",
            "not-vpn",
        ),  # a web server's answer to an odd client port
        ("203.0.113.7,192.0.2.10,17,51820,443,1,200", "not-vpn", "not-vpn"),
        ("203.0.113.7,198.51.100.10,50,0,0,1,200", "unregistered", "unregistered"),
        ("198.51.100.9,203.0.113.7,17,51820,40000,1,200", "registered", "not-vpn"),
        (
            "203.0.113.7,192.0.2.10,6,1194,8080,1,200",
            "unregistered",
            "not-vpn",
        ),  # documented: nothing but --direction tells
    ],
)
def test_a_line_may_be_either_direction(row, either, opener, tmp_path):
    path = log_of(tmp_path, row)
    found = data(path)
    assert list(found["by_reason"]) == [either] and found["flow_log"]["direction"] == "either"
    assert found["flow_log"]["judged_as_answers"] == (either != opener)
    assert list(data(path, "--direction", "opener")["by_reason"]) == [opener]


def test_columns_for_the_way_back_mean_the_openers_direction(tmp_path):
    head = "start,src,dst,proto,src_port,dst_port,packets,bytes,packets_back,bytes_back"
    path = log_of(tmp_path, ANSWER + ",4,400", head=head)
    found = data(path)
    assert found["flow_log"]["direction"] == "opener" and found["source"]["packets"] == 5
    assert list(found["by_reason"]) == ["not-vpn"]
    assert list(data(path, "--direction", "either")["by_reason"]) == ["unregistered"]


def test_both_directions_of_a_flow_name_the_same_ends(tmp_path):
    rows = ["203.0.113.33,198.51.100.150,17,500,500,1,200", "198.51.100.150,203.0.113.33,17,500,500,1,200"]
    found = data(log_of(tmp_path, *rows))
    assert len(found["top"]["pairs"]) == 1 and found["ends_untold"] == 2
    told = data(log_of(tmp_path, *rows), "--inside", "203.0.113.0/24")
    assert told["top"]["pairs"][0]["subscriber"] == "203.0.113.33" and told["ends_untold"] == 0


def test_what_misses_a_registration_is_named(tmp_path):
    allowlist = tmp_path / "a.json"
    company = {"category": "company"}
    one = examples.entry(1, "a", ["203.0.113.1/32"], ["198.51.100.1/32"], [51820], ["wireguard"]) | company
    later = (
        examples.entry(2, "b", ["203.0.113.2/32"], ["198.51.100.2/32"])
        | company
        | {"valid_from_ns": 2 * 10**18}
    )
    of_a_bank = {**examples.entry(3, "c", ["203.0.113.3/32"], ["198.51.100.3/32"]), "category": "bank"}
    allowlist.write_text(json.dumps({"serial": 5, "entries": [one, later, of_a_bank]}))
    policy = tmp_path / "c.policy.yaml"
    policy.write_text(
        (FOLDER / "border.policy.yaml").read_text() + "registrations: {categories: [company]}\n"
    )
    path = log_of(
        tmp_path,
        "203.0.113.1,198.51.100.1,17,40000,1194,1,200",
        "203.0.113.3,198.51.100.3,17,40000,51820,1,200",
        "203.0.113.2,198.51.100.2,50,0,0,1,200",
        "203.0.113.1,198.51.100.9,50,0,0,1,200",
    )
    result = CliRunner().invoke(
        main, ["replay", str(path), "--policy", str(policy), "--allowlist", str(allowlist), "--json"]
    )
    assert result.exit_code == 0, result.output
    found = [
        (pair["subscriber"], pair["protocol"], pair["nearest"]["miss"], pair["nearest"]["why"])
        for pair in json.loads(result.output)["top"]["pairs"]
    ]
    assert sorted(found) == [
        ("203.0.113.1", "esp", "other-endpoint", "it is for the endpoint 198.51.100.1/32"),
        ("203.0.113.1", "openvpn-udp", "other-port-and-protocol", "it is for wireguard on port 51820"),
        ("203.0.113.2", "esp", "not-valid-then", "it begins 2033-05-18T03:33:20.000Z"),
        ("203.0.113.3", "wireguard", "category", "its category bank does not count"),
    ]


def test_what_inside_would_tell_stands_below_the_table_of_subscribers():
    text = replay("border-1.7.nfdump.csv")
    table = next(part for part in text.split("\n\n") if part.startswith("subscribers ("))
    assert table.splitlines()[-1].startswith(
        "  Nothing tells which end is the subscriber's of 4 stopped flows"
    )
    assert "Nothing tells" not in replay("border-1.7.nfdump.csv", "--inside", "203.0.113.0/24", "--inside", "2001:db8:33::/48")  # fmt: skip


def test_lists_are_bounded_and_totals_are_not():
    pairs = Pairs(most=50)
    draw = np.random.default_rng(1)
    for _ in range(20):
        count = 30
        numbers = draw.integers(0, 2**32, count).astype(np.uint32)
        zeros = np.zeros(count, np.int64)
        code = np.full(count, len(RECOGNISED) - 1, np.uint8)
        reason = np.full(count, REASONS.index("unregistered"), np.uint8)
        ports = zeros.astype(np.uint16)
        pairs.add(Rows(4, numbers, numbers, ports, code, reason, reason, zeros, zeros, zeros + 2, zeros + 3))
    table = pairs.table(4)
    assert table is not None and len(table) <= 130
    assert pairs.lost_flows + int(table.column("flows").to_numpy().sum()) == 600
    assert pairs.lost_pairs + len(table) == 600
    assert pairs.changes.sum(axis=(0, 1)).tolist() == [600, 1200, 1800]


def test_what_could_hold_a_first_message_is_counted_by_the_openers_line():
    policy = load_policy(FOLDER / "border.policy.yaml")
    judge = Judge(policy, [])
    #        large enough, too small, a service's answer, to a service, over TCP too small, over TCP, VPN by its port
    octets = np.array([42, 41, 500, 500, 49, 50, 500], np.int64)
    src_port = np.array([40000, 40000, 443, 40000, 40000, 40000, 40000], np.uint16)
    dst_port = np.array([8443, 8443, 40000, 443, 8443, 8443, 51820], np.uint16)
    protocol = np.array([17, 17, 17, 17, 6, 6, 17], np.uint8)
    nothing = np.zeros(7, np.int64)
    lines = Lines(
        4,
        np.arange(7, dtype=np.uint32),
        np.arange(7, dtype=np.uint32),
        protocol,
        src_port,
        dst_port,
        nothing,
        nothing,
        octets,
    )
    assert judge.unseen(lines, judge(lines)).first_packets.tolist() == [3, 0, 42 + 500 + 50]


def test_people_are_summed_over_their_lines():
    pairs = [
        whose.Pair(
            4, line, 9, 500, "ikev2", "unregistered", "unregistered", flows, 1, 1, 0, 0, None, "nobody"
        )
        for line, flows in ((1, 5), (1, 2), (2, 1))
    ]
    (person,) = whose.people(pairs)
    assert (person.registrant, person.sums[0], len(person.subscribers), dict(person.misses)) == (
        None,
        8,
        2,
        {"nobody": 8},
    )


def commands():
    text = DOCUMENT.read_text() if DOCUMENT.exists() else ""
    blocks = re.findall(r"```sh\n(.*?)```", text, re.S)
    joined = "\n".join(blocks).replace("\\\n", " ")
    return [line.split(" #")[0].strip() for line in joined.splitlines() if line.startswith("enforcer replay")]


@pytest.mark.parametrize("line", commands())
def test_the_documents_commands_can_be_typed(line, monkeypatch):
    monkeypatch.chdir(FOLDER)
    result = CliRunner().invoke(main, shlex.split(line)[1:])
    assert result.exit_code == 0, result.output


def test_the_document_has_commands_and_names_every_part_of_the_json():
    assert len(commands()) >= 4
    text = DOCUMENT.read_text()
    found = data("border.parquet", *AGAINST) | data("border.pcap")
    names = set(found) | {key for part in found.values() if isinstance(part, dict) for key in part}
    names -= set(REASONS) | {found.protocol for found in RECOGNISED if found}
    assert sorted(name for name in names if f"`{name}`" not in text) == []


def test_progress_is_for_terminals_and_what_takes_long(monkeypatch, capsys, tmp_path):
    source = Source(FOLDER / "border.pcap")
    source.read(1000)
    result = Result("x", "pcap", [])
    result.seen[0] = 1234
    clock = iter([0.0, 0.5, 2.0, 2.05, 3.0, 9.0])
    monkeypatch.setattr(command.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    shown = command._Progress(source, result)
    for _ in range(4):  # after half a second, two, a twentieth more, three
        shown.tick()
    shown.end()
    written = capsys.readouterr().err
    assert written.count("border.pcap, 1,234 flows") == 2 and written.endswith("\r\033[K")
    quiet = command._Progress.__new__(command._Progress)
    quiet._is_wanted = False
    quiet.tick()
    assert capsys.readouterr().err == ""
