"""Files in and out: bulk applications all or none, errors by line and column, ledgers that come back with the same hashes."""

from __future__ import annotations

import csv
import io
import json
import time
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from enforcer.protocols import VPN_PROTOCOLS
from enforcer.registry.__main__ import main
from enforcer.registry.bulk import apply_all
from enforcer.registry.exchange import BadFile, forms_csv, read_forms
from enforcer.registry.form import CATEGORIES, Application, Document, application
from enforcer.registry.ledger import Ledger
from enforcer.registry.states import Rules

HEAD = "registrant,subscriber_prefixes,endpoint_prefixes,endpoint_ports,category\n"
GOOD = "Ada Lovelace,203.0.113.7/32 2001:db8::/48,198.51.100.4/32,51820,freelancer\n"


def run(*arguments: object):
    return CliRunner().invoke(main, [str(each) for each in arguments])


def many(count: int) -> list[Application]:
    return [
        Application(f"member {n}", (f"20.{n >> 8 & 255}.{n & 255}.1/32",), ("198.51.100.4/32",), (51820,))
        for n in range(count)
    ]


def test_ten_thousand_applications_are_taken_at_once_each_with_its_number():
    ledger = Ledger(":memory:")
    rows = read_forms("members.csv", "".join(forms_csv(many(10_000))))
    started = time.process_time()
    report = apply_all(ledger, rows, by="association")
    assert (
        time.process_time() - started < 15
    )  # about 2 s; far more would be a search through the ledger for each row
    assert report.is_applied and report.wrong == ()
    assert [row.registration for row in report.rows] == list(range(1, 10_001))
    assert ledger.counts() == {"pending": 10_000}
    assert ledger.registration(10_000).application == many(10_000)[-1]
    assert next(ledger.events()).by == "association"


def test_one_wrong_row_among_them_leaves_nothing_and_every_problem_is_told():
    ledger = Ledger(":memory:")
    old = ledger.apply(many(3)[2]).number
    lines = list(forms_csv(many(4)))
    text = "".join([*lines, lines[1], lines[2].replace("/32", "/33"), lines[2].replace("company", "bakery")])
    report = apply_all(ledger, read_forms("members.csv", text), "members.csv")
    assert not report.is_applied and ledger.head().events == 1
    told = "\n".join(problem for row in report.wrong for problem in row.problems)
    for part in (
        f"members.csv:4:1: registration {old} asks for this already",
        "members.csv:6:1: the same application as row 1 (line 2)",
        "members.csv:7:18: subscriber_prefixes: '20.0.1.1/33'",
        "members.csv:8:10: category: 'bakery' is unknown",
    ):
        assert part in told
    assert [row.row for row in report.wrong] == [3, 5, 6, 7]
    assert apply_all(
        ledger, read_forms("m.csv", "".join(lines[:3]))
    ).is_applied  # control: without those rows


def test_what_is_over_may_be_applied_for_again():
    ledger = Ledger(":memory:")
    rows = read_forms("m.csv", "".join(forms_csv(many(1))))
    assert apply_all(ledger, rows).is_applied
    assert not apply_all(ledger, rows).is_applied
    ledger.withdraw(1)
    assert apply_all(ledger, rows, is_trial=True).wrong == ()
    assert apply_all(ledger, rows).is_applied


def test_papers_are_asked_for_in_bulk_too():
    ledger = Ledger(":memory:", Rules(requires_documents=True))
    head, row = HEAD.strip() + ",documents\n", GOOD.strip()
    report = apply_all(ledger, read_forms("m.csv", head + row + ",identity\n"), "m.csv")
    assert "m.csv:2:76: documents: freelancer needs employment" in report.wrong[0].problems[0]
    named = read_forms("m.csv", head + row + ",identity; employment=letter of 2 May\n")
    assert apply_all(ledger, named).is_applied
    assert ledger.registration(1).application.documents[1] == Document("employment", "letter of 2 May")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("registrant,colour\n", "m.csv:1:12: 'colour' is no column"),
        ("registrant,registrant\n", "m.csv:1:12: 'registrant' is there twice"),
        ("registrant\n", "m.csv:1:1: the column 'endpoint_prefixes' is missing"),
        ("", "m.csv:1:1: the column 'registrant' is missing"),
    ],
)
def test_a_file_that_is_no_list_of_applications_is_refused(text, told):
    with pytest.raises(BadFile) as caught:
        read_forms("m.csv", text)
    assert any(told in problem for problem in caught.value.problems)


@pytest.mark.parametrize(
    ("name", "row", "told"),
    [
        ("m.csv", "a,203.0.113.7/32\n", "m.csv:2:3: 2 cells where the first line has 5"),
        ("m.csv", GOOD.replace("51820", "70000"), "m.csv:2:59: endpoint_ports: 70000 is not a port"),
        ("m.csv", GOOD.replace("51820", "all"), "m.csv:2:59: endpoint_ports: 'all' is not a port"),
        ("m.csv", '"A, ""B""\nand C"' + GOOD[12:].replace("203.0.113.7", "203.0.113"), "m.csv:2:8: subscriber_prefixes: '203.0.113/32'"),
        ("m.jsonl", '{"registrant": }\n', "m.jsonl:1:16: not JSON"),
        ("m.jsonl", "[]\n", "m.jsonl:1:1: not JSON: write one JSON object a line"),
        ("m.jsonl", '{"registrant": "a", "ports": []}\n', "m.jsonl:1:21: ports: unknown"),
    ],
)  # fmt: skip
def test_a_wrong_row_is_told_with_line_and_column(tmp_path, name, row, told):
    (tmp_path / name).write_text((HEAD if name == "m.csv" else "") + row)
    ledger, report = tmp_path / "ledger.sqlite", tmp_path / "report.csv"
    answer = run("import", ledger, tmp_path / name, "--as", "applications", "--report", report)
    assert answer.exit_code == 2 and told in answer.output, answer.output
    assert "1 of 1 row is wrong; nothing was taken" in answer.output
    assert report.read_text().startswith("row,line,registration,problems\n1,")
    (tmp_path / name).write_text(
        HEAD + GOOD
        if name == "m.csv"
        else json.dumps(
            {
                "registrant": "a",
                "subscriber_prefixes": ["203.0.113.7/32"],
                "endpoint_prefixes": ["198.51.100.4/32"],
            }
        )
    )
    answer = run("import", ledger, tmp_path / name, "--as", "applications")
    assert answer.exit_code == 0 and "1 application taken: number 1\n" in answer.output


texts = st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), max_size=30).map(str.strip)
forms = st.builds(
    Application,
    registrant=texts.filter(bool),
    subscriber_prefixes=st.just(("203.0.113.7/32", "2001:db8::/48")),
    endpoint_prefixes=st.just(("198.51.100.4/32",)),
    endpoint_ports=st.lists(st.integers(1, 65535), max_size=3).map(tuple),
    protocols=st.lists(st.sampled_from(list(VPN_PROTOCOLS)), max_size=2, unique=True).map(tuple),
    category=st.sampled_from(CATEGORIES),
    purpose=texts,
    provider=texts,
    documents=st.sampled_from([(), (Document("identity"), Document("tax", "ATL 2026"))]),
)


@settings(max_examples=100, deadline=None)
@given(st.lists(forms, max_size=4))
def test_applications_come_back_from_csv_as_they_were(written):
    rows = read_forms("x.csv", "".join(forms_csv(written)))
    ledger = Ledger(":memory:")
    report = apply_all(ledger, rows)
    if (
        all(not row.problems or "the same application" in row.problems[0] for row in report.rows)
        and report.is_applied
    ):
        assert [each.application for each in ledger.registrations()] == written
    else:
        assert all("the same application" in problem for row in report.wrong for problem in row.problems)


def busy(path: Path) -> Ledger:
    ledger = Ledger(str(path), Rules(validity_ns=10**15), clock=lambda: 7)
    for form in many(6):
        ledger.apply(form, token_sha256="ab" * 32)
    for number in (1, 2, 3, 4):
        ledger.verify(number, True)
    for number, *actions in (
        (1, "approve"),
        (2, "approve", "suspend"),
        (3, "reject"),
        (4, "approve", "revoke"),
    ):
        for action in actions:
            ledger.decide(number, action, reason=f"why: {action}")
    ledger.appeal(3, "rejection", 'Ünïcode, "quotes"\nand lines')
    ledger.withdraw(5)
    return ledger


def test_events_come_back_with_the_same_hashes(tmp_path):
    ledger = busy(tmp_path / "one.sqlite")
    head, allowlist = ledger.head(), ledger.allowlist()
    ledger.close()
    lines = run("export", tmp_path / "one.sqlite", "--as", "events").output
    (tmp_path / "events.jsonl").write_text(lines)
    answer = run("import", tmp_path / "two.sqlite", tmp_path / "events.jsonl", "--as", "events")
    assert answer.exit_code == 0, answer.output
    two = Ledger(str(tmp_path / "two.sqlite"))
    assert two.head() == head and two.allowlist() == allowlist
    assert run("verify", tmp_path / "two.sqlite").exit_code == 0
    assert run("export", tmp_path / "two.sqlite", "--as", "events").output == lines


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda lines: [*lines[:3], lines[3].replace("member 3", "member 9"), *lines[4:]], "event 4 (apply of registration 4): its hash is"),
        (lambda lines: [*lines[:3], *lines[4:]], "event 5 (apply of registration 5): 4 must come next"),
        (lambda lines: [lines[0], lines[10].replace('"sequence":11', '"sequence":2')], "event 2 (approve of registration 1): registration 1: the ISP has not answered"),
        (lambda lines: ["{", *lines], "events.jsonl:1:2: not an event"),
        (lambda lines: ['{"sequence": 1}', *lines], "events.jsonl:1:1: 'action' is missing"),
    ],
)  # fmt: skip
def test_events_that_were_changed_are_not_taken(tmp_path, change, told):
    busy(tmp_path / "one.sqlite").close()
    lines = run("export", tmp_path / "one.sqlite", "--as", "events").output.splitlines()
    (tmp_path / "events.jsonl").write_text("\n".join(change(lines)) + "\n")
    answer = run("import", tmp_path / "two.sqlite", tmp_path / "events.jsonl", "--as", "events")
    assert answer.exit_code == 2 and told in answer.output, answer.output
    assert Ledger(str(tmp_path / "two.sqlite")).head().events == 0


def test_registrations_come_back_in_their_states(tmp_path):
    ledger = busy(tmp_path / "one.sqlite")
    lines = run("export", tmp_path / "one.sqlite", "--as", "registrations").output
    (tmp_path / "people.jsonl").write_text(lines)
    answer = run("import", tmp_path / "two.sqlite", tmp_path / "people.jsonl", "--as", "registrations")
    assert answer.exit_code == 0, answer.output
    two = Ledger(str(tmp_path / "two.sqlite"))
    assert two.allowlist().entries == ledger.allowlist().entries
    assert [(each.state, each.application, each.token_sha256) for each in two.registrations()] == [
        (each.state, each.application, each.token_sha256) for each in ledger.registrations()
    ]
    (tmp_path / "people.jsonl").write_text(lines.replace('"20.0.2.1/32"', '"20.0.2.1/8"'))
    answer = run("import", tmp_path / "three.sqlite", tmp_path / "people.jsonl", "--as", "registrations")
    assert (
        answer.exit_code == 2
        and "people.jsonl:3:78: subscriber_prefixes: 20.0.2.1/8 has host bits set; write a prefix"
        in answer.output
    )


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ('{"registrant": "A", "subscriber_prefixes": ["203.0.113.7/32"], "endpoint_prefixes": [', "2:86: not JSON: Expecting value; write one JSON object a line, as 'enforcer-registry export --as registrations' prints them"),
        ("[1]", "2:1: not a JSON object; write one JSON object a line"),
        ('{"registrant": "A", "subscriber_prefixes": ["203.0.113.7/32"], "endpoint_prefixes": ["198.51.100.4/32"], "state": "activ"}', "2:115: state: 'activ' is not possible here; did you mean 'active'?"),
        ('{"subscriber_prefixes": ["203.0.113.7/32"], "endpoint_prefixes": ["198.51.100.4/32"], "state": "active"}', "2:1: 'registrant' is missing; add 'registrant: …'"),
        ('{"registrant": 7, "subscriber_prefixes": "203.0.113.7/32", "endpoint_prefixes": ["198.51.100.4/32"], "state": "active"}', "2:16: registrant: '7' is not text; write it in quotes: '7'"),
        ('{"registrant": "A", "subscriber_prefixes": ["203.0.113.7/32"], "endpoint_prefixes": ["198.51.100.4/32"], "state": "active", "stat": 1}', "2:125: stat: 'stat' is not a key here"),
        ('{"registrant": "A", "subscriber_prefixes": ["203.0.113.7/32"], "endpoint_prefixes": ["198.51.100.4/32"], "category": "hospital", "state": "active"}', "2:118: category: 'hospital' is unknown; write one of company"),
    ],
)  # fmt: skip
def test_a_wrong_registration_is_told_in_the_projects_words_with_line_and_column(tmp_path, line, told):
    file, good = tmp_path / "people.jsonl", '{"registrant": "B", "subscriber_prefixes": ["203.0.113.8/32"], "endpoint_prefixes": ["198.51.100.4/32"], "state": "active"}'  # fmt: skip
    file.write_text(f"{good}\n{line}\n\n{line}\n")
    answer = run("import", tmp_path / "ledger.sqlite", file, "--as", "registrations")
    assert answer.exit_code == 2 and f"{file}:{told}" in answer.output, answer.output
    assert f"{file}:4:" in answer.output and "Input should" not in answer.output
    assert Ledger(str(tmp_path / "ledger.sqlite")).registrations() == []
    file.write_text(f"{good}\n\n")
    answer = run("import", tmp_path / "ledger.sqlite", file, "--as", "registrations")
    assert answer.exit_code == 0, answer.output  # control


def test_the_past_by_serial_and_by_time(tmp_path):
    now = [0]
    ledger = Ledger(str(tmp_path / "ledger.sqlite"), clock=lambda: now[0] * 10**9)
    for second, act in enumerate(
        [lambda: ledger.apply(many(1)[0]), lambda: ledger.verify(1, True), lambda: ledger.decide(1, "approve"), lambda: ledger.decide(1, "revoke")],
        start=1_731_000_000,
    ):  # fmt: skip
        now[0] = second
        act()
    ledger.close()
    for arguments, told in (
        (["--serial", "1"], "serial 1, after event 3: 1 registration\n        1  active"),
        (["--at", "2024-11-07T17:20:01Z"], "serial 0, after event 2: 1 registration\n        1  pending"),
        (["--at", "2024-11-07T22:20:02+05:00"], "serial 1, after event 3"),
        (["--at", "2000-01-01"], "serial 0, after event 0: 0 registrations"),
        ([], "serial 2, after event 4: 1 registration\n        1  revoked"),
    ):
        assert told in run("state", tmp_path / "ledger.sqlite", *arguments).output
    one = json.loads(
        run("state", tmp_path / "ledger.sqlite", "--serial", 1, "--registration", 1, "--json").output
    )
    assert one["state"] == "active" and "token_sha256" not in one
    assert "serial 3 is not in this ledger" in run("state", tmp_path / "ledger.sqlite", "--serial", 3).output


@pytest.mark.parametrize("separator", [";", "\t"])
def test_what_a_spreadsheet_writes_instead_of_commas_is_read_alike(separator):
    forms = [Application('A; "B", C', ("203.0.113.7/32", "203.0.113.9/32"), ("198.51.100.4/32",), (51820, 1194), documents=(Document("identity"), Document("tax", "7")))]  # fmt: skip
    cells = list(csv.reader(forms_csv(forms)))
    out = io.StringIO()
    csv.writer(out, delimiter=separator).writerows(cells)
    rows = read_forms("m.csv", "\ufeff" + out.getvalue())
    assert [application(row.form) for row in rows] == forms
    assert read_forms("m.csv", out.getvalue().replace("51820", "all"))[0].columns["endpoint_ports"] > 1


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("import", "new.sqlite", "m.txt", "--as", "applications"), "name it *.csv or *.jsonl"),
        (("import", "new.sqlite", "head.csv", "--as", "applications"), "there are no applications in it"),
        (("import", "new.sqlite", "wrong.csv", "--as", "applications"), "nothing was taken"),
        (("import", "new.sqlite", "wrong.csv", "--as", "events"), "wrong.csv:1:1: not an event: Expecting value; write what"),
        (("import", "new.sqlite", "wrong.csv", "--as", "registrations"), "wrong.csv:1:1: not JSON"),
        (("import", "new.sqlite", "early.jsonl", "--as", "registrations"), "early.jsonl:1:134: at_ns: -5 is too small; write at least 0"),
        (("import", "new.sqlite", "late.jsonl", "--as", "registrations"), "at_ns: "),
        (("import", "new.sqlite", "binary.csv", "--as", "applications"), "byte 0 is not UTF-8"),
        (("import", "nowhere/new.sqlite", "good.csv", "--as", "applications"), "there is no folder nowhere; make it"),
        (("import", "new.sqlite", "good.csv", "--as", "applications", "--report", "nowhere/r.csv"), "nowhere/r.csv: there is no folder nowhere"),
        (("import", "there.sqlite", "good.csv", "--as", "applications", "--report", "."), "--report"),
        (("import", "there.sqlite", "same.jsonl", "--as", "registrations"), "same.jsonl:2:1: registration 1 asks for this already; remove the line"),
        (("migrate", "good.csv", "new.sqlite"), "good.csv: not a ledger"),
        (("backup", "there.sqlite", "nowhere/copy.sqlite"), "there is no folder nowhere"),
        (("export", "there.sqlite", "--at", "9" * 30), "is no time"),
        (("state", "there.sqlite", "--registration", "9" * 20), "not in the range"),
        (("account", "list", "new.sqlite"), "does not exist"),
    ],
)  # fmt: skip
def test_a_wrong_command_is_told_changes_nothing_and_leaves_no_file(tmp_path, monkeypatch, arguments, told):
    monkeypatch.chdir(tmp_path)
    seed = '{"registrant": "B", "subscriber_prefixes": ["203.0.113.8/32"], "endpoint_prefixes": ["198.51.100.4/32"], "state": "active", "at_ns": %s}\n'  # fmt: skip
    other = seed.replace("203.0.113.8", "203.0.113.9") % 1
    files = {
        "good.csv": HEAD + GOOD, "m.txt": HEAD + GOOD, "head.csv": HEAD, "wrong.csv": HEAD + GOOD.replace("51820", "all"), "early.jsonl": seed % -5,
        "late.jsonl": seed % (2**63), "same.jsonl": other + seed % 7,
    }  # fmt: skip
    for name, text in files.items():
        Path(name).write_text(text)
    Path("binary.csv").write_bytes(b"\xff\xfe")
    assert run("import", "there.sqlite", "same.jsonl", "--as", "registrations").exit_code == 0  # control
    Path("same.jsonl").write_text(other.replace("203.0.113.9", "203.0.113.10") + other)
    before, names = Path("there.sqlite").read_bytes(), sorted(Path().iterdir())
    answer = run(*arguments)
    assert answer.exit_code == 2 and told in answer.output, answer.output
    assert isinstance(answer.exception, SystemExit)
    left = [each for each in sorted(Path().iterdir()) if not each.name.endswith(("-wal", "-shm"))]
    assert left == names and Path("there.sqlite").read_bytes() == before


def test_a_trial_makes_no_ledger(tmp_path):
    (tmp_path / "good.csv").write_text(HEAD + GOOD)
    answer = run("import", tmp_path / "new.sqlite", tmp_path / "good.csv", "--as", "applications", "--trial")
    assert answer.exit_code == 0 and "1 application would be taken" in answer.output
    assert [each.name for each in tmp_path.iterdir()] == ["good.csv"]
    run("import", tmp_path / "new.sqlite", tmp_path / "good.csv", "--as", "applications")
    assert (tmp_path / "new.sqlite").exists()  # control


def test_of_very_many_wrong_rows_the_first_are_told_and_a_report_has_all(tmp_path):
    rows = "".join(GOOD.replace("51820", "all") for _ in range(250))
    (tmp_path / "m.csv").write_text(HEAD + rows)
    answer = run("import", tmp_path / "l.sqlite", tmp_path / "m.csv", "--as", "applications", "--report", tmp_path / "r.csv")  # fmt: skip
    assert "m.csv:101:" in answer.output and "m.csv:102:" not in answer.output
    assert (
        "150 more rows are not shown here" in answer.output and "250 of 250 rows are wrong" in answer.output
    )
    assert len((tmp_path / "r.csv").read_text().splitlines()) == 251
