"""CSV parsed from its bytes is what Arrow's reader makes of it, whatever stands in it."""

from __future__ import annotations

from datetime import datetime

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from enforcer.replay import regular
from enforcer.replay.mapping import choose
from enforcer.replay.regular import Regular, layout_of
from tests.test_enforcer_replay_logs import FOLDER, GOOD, HEAD, flat, read, written

FOUR = some.ip_addresses(v=4).map(str)
SIX = some.ip_addresses(v=6).map(str)
# What is usual, with what is less so: beyond a limit, empty, signed, with a fraction, with blanks, no number at all.
PORTS = some.one_of(
    some.integers(0, 65535).map(str), some.sampled_from(["", "8.0", "65536", "+5", " 53", "x", "0443", "-1"])
)
COUNTS = some.one_of(
    some.integers(0, 2**62).map(str),
    some.integers(0, 10**9).map(str),
    some.sampled_from(["", "007", "3.5", "-3", "9" * 16, "9" * 17, "9" * 19, "1e3", "12:"]),
)
PROTOS = some.sampled_from(["TCP", "UDP", "udp", "17", "6", "ICMP", "1", "ESP", "50", "UDQ", "", "IPV6-ICMP"])
ADDRESSES = some.one_of(
    FOUR, SIX, some.sampled_from(["1.2.3", "1.2.3.4.5", "1.2.3.256", "1..2.3", "01.2.3.4", "1.2.3.4444", ""])
)
ENDS = some.one_of(some.tuples(FOUR, FOUR), some.tuples(SIX, SIX), some.tuples(ADDRESSES, ADDRESSES))


def times(digits):
    whole = some.datetimes(min_value=datetime(1969, 12, 1), max_value=datetime(2199, 1, 1)).map(
        lambda when: when.isoformat(" ", "milliseconds" if digits else "seconds")
    )
    odd = some.sampled_from(
        ["2023-02-29 00:00:00", "2024-02-29 23:59:59", "2024-13-01 00:00:00", "2024-11-10 24:00:00",
         "2024-11-10T09:00:00", "2024-11-10 09:00:60", "2024-11-10 09:0a:00", "", "2024-11-31 01:01:01"]
    ).map(lambda text: text + ".250" if digits and text else text)  # fmt: skip
    return some.one_of(whole, whole, odd)


@some.composite
def logs_of(draw):
    """A log as text: mostly usual lines, some with anything in them; and how long the pieces are."""
    digits = draw(some.booleans())
    usual = some.tuples(
        times(digits),
        some.tuples(FOUR, FOUR),
        some.sampled_from(["TCP", "UDP"]),
        some.integers(0, 65535).map(str),
        some.integers(0, 65535).map(str),
        some.integers(1, 10**10).map(str),
        some.integers(1, 10**10).map(str),
    )
    strange = some.tuples(times(digits), ENDS, PROTOS, PORTS, PORTS, COUNTS, COUNTS)
    rows = draw(some.lists(some.one_of(usual, usual, usual, strange), min_size=1, max_size=14))
    lines = [",".join((row[0], *row[1], *row[2:])) for row in rows]
    if draw(some.integers(0, 5)) == 0:
        place = draw(some.integers(0, len(lines) - 1))
        lines[place] = draw(
            some.sampled_from([lines[place] + ",", lines[place][:-9], f'"{lines[place]}', "", "Summary"])
        )
    first = f"2024-11-10 09:00:00{'.250' if digits else ''},203.0.113.7,198.51.100.9,UDP,40000,51820,3,300"
    return HEAD + "\n".join([first, *lines]) + draw(some.sampled_from(["", "\n", "\r\n"]))


def both(path, monkeypatch):
    """What is read, with Arrow alone and as it is; each with its damages."""
    found = []
    for parse in (lambda self, block: None, Regular.parse):
        with monkeypatch.context() as patch:
            patch.setattr(Regular, "parse", parse)
            lines, log = read(path)
        found.append((flat(lines), [str(each) for each in log.damages.first], log.damages.count))
    return found


@settings(max_examples=120, deadline=None)
@given(text=logs_of(), piece=some.sampled_from([100, 300, 1 << 20]))
def test_a_log_is_read_as_arrow_reads_it(text, piece, tmp_path_factory):
    path = written(tmp_path_factory.mktemp("regular"), text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(regular, "_PIECE_BYTES", piece)
        arrow, here = both(path, patch)
    assert here == arrow


@pytest.mark.parametrize("name", ["border-1.7.nfdump.csv", "border-1.6.nfdump.csv"])
def test_the_shipped_logs_are_read_as_arrow_reads_them(name, monkeypatch):
    arrow, here = both(FOLDER / name, monkeypatch)
    assert here == arrow and here[0]


def parsed(text):
    header, _, rest = text.partition("\n")
    layout = layout_of(_ours(), header.split(","), ",", "UTC", rest.split("\n")[0])
    assert layout is not None
    return Regular(layout).parse(rest.encode())


def _ours():
    return choose(HEAD.strip().split(","), None, False)


def test_usual_lines_need_no_arrow_and_the_others_are_handed_over():
    """Else the test above would compare Arrow with itself."""
    icmp = GOOD.replace("UDP", "ICMP").replace("51820", "8.0")
    six = GOOD.replace("203.0.113.7", "2001:db8::1").replace("198.51.100.9", "2001:db8::2")
    found = parsed(HEAD + GOOD * 5 + icmp + GOOD + six + GOOD.replace(",3,", ",12345678901,"))
    assert found is not None
    assert len(found.lines) == 7 and found.odd.decode() == icmp + six
    assert found.lines.packets.tolist() == [3] * 6 + [12345678901]
    assert found.lines.src.tolist() == [0xCB007107] * 7 and found.lines.dst.tolist() == [0xC6336409] * 7
    assert found.lines.start_ns.tolist() == [1731229200_000_000_000] * 7


@pytest.mark.parametrize("change", [("UDP", '"UDP"'), ("\n", "\r\n")])
def test_quotes_and_other_line_ends_are_left_to_arrow(change):
    assert parsed(HEAD + GOOD * 2) is not None
    assert parsed(HEAD + GOOD + GOOD.replace(*change)) is None


def test_times_of_another_zone_and_both_ways_are_left_to_arrow():
    header: list[str] = list(HEAD.strip().split(","))
    assert layout_of(_ours(), header, ",", "UTC", GOOD) is not None
    assert layout_of(_ours(), header, ",", "Asia/Karachi", GOOD) is None
    assert layout_of(_ours(), header, ",", "UTC", GOOD.replace("09:00:00", "09:00:00Z")) is None


def test_many_numbers_of_every_length_are_read():
    draw = np.random.default_rng(4)
    counts = [int(draw.integers(10 ** (size - 1), 10**size)) for size in range(1, 17) for _ in range(20)]
    found = parsed(HEAD + "".join(GOOD.replace(",300", f",{each}") for each in counts))
    assert found is not None and found.odd == b""
    assert found.lines.bytes.tolist() == counts


def test_a_block_that_is_cut_off_is_left_to_the_reader_that_says_so():
    """What follows the last line's end may hold no separator, and would be lost."""
    assert Regular.parse(object(), memoryview(b"17312\n1")) is None  # type: ignore[arg-type]
