"""Flow logs: every format gives the same lines; a wrong line is named and costs nothing but itself."""

from __future__ import annotations

import gzip
from ipaddress import ip_address

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from enforcer.replay import addresses, logs
from enforcer.replay.logs import Log, NotAFlowLog
from enforcer.replay.mapping import FIELDS, Mapping, choose, load_mapping, parse_mapping
from enforcer.replay.source import Source
from enforcer.yamlfile import FileError
from tests import replay_examples as examples
from tests.replay_examples import FOLDER

HEAD = "start,src,dst,proto,src_port,dst_port,packets,bytes\n"
GOOD = "2024-11-10 09:00:00,203.0.113.7,198.51.100.9,UDP,40000,51820,3,300\n"


def read(path, given=None, has_moment=False, zone="UTC"):
    log = Log(Source(path), given, has_moment, zone)
    return list(log.lines()), log


def flat(lines):
    """The lines as tuples of Python values, in an order of their own."""
    found = []
    for each in lines:
        for place in range(len(each)):
            ends = [each.src[place], each.dst[place]]
            if each.version == 6:
                ends = [int(high) << 64 | int(low) for high, low in ends]
            rest = (each.protocol, each.src_port, each.dst_port, each.start_ns, each.packets, each.bytes)
            found.append(
                (each.version, *(int(end) for end in ends), *(int(column[place]) for column in rest))
            )
    return sorted(found)


def written(tmp_path, text, name="x.csv"):
    path = tmp_path / name
    path.write_text(text) if isinstance(text, str) else path.write_bytes(text)
    return path


def shown():
    """What the shipped logs hold, to the second."""
    return sorted(
        (
            ip_address(line.src).version,
            int(ip_address(line.src)),
            int(ip_address(line.dst)),
            line.protocol,
            line.src_port,
            line.dst_port,
            int(examples.BEGIN_S + line.after_s),
            line.packets,
            line.bytes,
        )
        for line in examples.lines()
    )


@pytest.mark.parametrize(
    ("name", "format_name", "mapping"),
    [
        ("border-1.6.nfdump.csv", "nfdump 1.6 CSV", None),
        ("border-1.7.nfdump.csv", "nfdump 1.7 CSV", None),
        ("border.parquet", "flow log", None),
        ("border.csv", "flow log by border.mapping.yaml", "border.mapping.yaml"),
    ],
)
def test_every_format_gives_the_same_lines(name, format_name, mapping):
    lines, log = read(FOLDER / name, load_mapping(FOLDER / mapping) if mapping else None)
    found = [(*each[:6], each[6] // 10**9, *each[7:]) for each in flat(lines)]
    assert found == shown()
    assert log.mapping.name == format_name and log.damages.count == 0
    assert log.notes == (["times in the log name no zone: read as UTC"] if "nfdump" in name else [])


def test_csv_fast_of_nfdump_is_read_too(tmp_path):
    head = "cnt,af,firstSeen,lastSeen,proto,srcAddr,srcPort,dstAddr,dstPort,srcAS,dstAS,input,output,flags,srcTos,packets,bytes\n"
    row = "1,2,1731229200500,1731229201000,17,203.0.113.7,40000,198.51.100.9,51820,0,0,1,2,........,0,3,300\n"
    lines, log = read(written(tmp_path, head + row))
    assert log.mapping.name == "nfdump csv-fast"
    assert lines[0].start_ns.tolist() == [1731229200_500_000_000] and lines[0].dst_port.tolist() == [51820]


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_separators_and_line_ends_are_seen(separator, end, tmp_path):
    text = (HEAD + GOOD * 3).replace(",", separator).replace("\n", end)
    lines, log = read(written(tmp_path, "\ufeff" + text))
    assert len(flat(lines)) == 3 and log.damages.count == 0


@pytest.mark.parametrize(
    ("when", "zone", "expected"),
    [
        ("2024-11-10 09:00:00", "UTC", 1731229200_000_000_000),
        ("2024-11-10 09:00:00.250", "UTC", 1731229200_250_000_000),
        ("2024-11-10 14:00:00.250", "Asia/Karachi", 1731229200_250_000_000),
        ("2024-11-10T09:00:00Z", "Asia/Karachi", 1731229200_000_000_000),
        ("2024-11-10T14:00:00+0500", "UTC", 1731229200_000_000_000),
    ],
)
def test_times_are_unix_time_whatever_their_zone(when, zone, expected, tmp_path):
    path = written(tmp_path, HEAD + GOOD.replace("2024-11-10 09:00:00", when))
    lines, log = read(path, zone=zone)
    assert [str(each) for each in log.damages.first] == []
    assert lines[0].start_ns.tolist() == [expected]


@pytest.mark.parametrize(
    ("unit", "number"),
    [("s", "1731229200"), ("s", "1731229200.25"), ("ms", "1731229200250"), ("ns", "1731229200250000000")],
)
def test_times_as_numbers_need_their_unit(unit, number, tmp_path):
    path = written(tmp_path, HEAD + GOOD.replace("2024-11-10 09:00:00", number))
    plain = ",".join(f"{name}={name.replace('-', '_')}" for name in FIELDS[1:8])
    lines, _ = read(path, parse_mapping(f"start=start@{unit},{plain}"))
    assert lines[0].start_ns[0] // 10**9 == 1731229200
    with pytest.raises(NotAFlowLog, match="start=start@s"):
        read(path)


def test_a_moment_given_makes_times_unneeded(tmp_path):
    rows = "\n".join(line.split(",", 1)[1] for line in (HEAD + GOOD).splitlines()) + "\n"
    lines, _ = read(written(tmp_path, rows), has_moment=True)
    assert lines[0].start_ns.tolist() == [0]
    with pytest.raises(NotAFlowLog, match="start"):
        read(written(tmp_path, rows))


def test_columns_for_the_way_back_are_added(tmp_path):
    text = (
        "t,a,b,p,x,y,out,in,ob,ib\n2024-11-10 09:00:00,203.0.113.7,198.51.100.9,17,40000,51820,3,4,300,400\n"
    )
    mapping = parse_mapping(
        "start=t,src=a,dst=b,proto=p,src-port=x,dst-port=y,packets=out,packets-back=in,bytes=ob,bytes_back=ib"
    )
    lines, log = read(written(tmp_path, text), mapping)
    assert (lines[0].packets.tolist(), lines[0].bytes.tolist()) == ([7], [700])
    assert log.mapping.is_biflow


@pytest.mark.parametrize(
    ("row", "says"),
    [
        (GOOD.replace("203.0.113.7", "203.0.113.256"), "column 'src': '203.0.113.256' is no IP address"),
        (GOOD.replace("203.0.113.7", "203.0.113"), "column 'src': '203.0.113' is no IP address"),
        (GOOD.replace("203.0.113.7", ""), "column 'src': there is a line without an address"),
        (GOOD.replace("203.0.113.7", "2001:db8::1::2"), "column 'src': '2001:db8::1::2' is no IPv6 address"),
        (
            GOOD.replace("203.0.113.7", "2001:db8::1"),
            "column 'dst': its address is not of the family of the source's",
        ),
        (GOOD.replace("UDP", "UDQ"), "column 'proto': 'UDQ' is no IP protocol's name or number"),
        (GOOD.replace("51820", "70000"), "column 'dst_port': 70000 is not a port (0 to 65535)"),
        (GOOD.replace("51820", "8.5"), "column 'dst_port': a number is no port"),
        (GOOD.replace("51820", "x"), "column 'dst_port': 'x' is no number"),
        (GOOD.replace(",3,", ",-3,"), "column 'packets': -3 is not a count"),
        (GOOD.replace(",3,", ",3.5,"), "column 'packets': '3.5' is no whole number"),
        (GOOD.replace("09:00:00", "09:00:xx"), "column 'start': '2024-11-10 09:00:xx' is no time"),
        (GOOD.replace(",300", ""), "7 columns where the header has 8"),
        (GOOD.replace(",300", ",300,1"), "9 columns where the header has 8"),
    ],
)
def test_a_wrong_line_is_named_and_only_it_is_left_out(row, says, tmp_path):
    path = written(tmp_path, HEAD + GOOD * 5 + row + GOOD * 4)
    lines, log = read(path)
    assert len(flat(lines)) == 9
    (damage,) = log.damages.first
    assert damage.line == 7 and damage.offset == len(HEAD) + 5 * len(GOOD)
    assert says in damage.what


def test_wrong_lines_are_found_wherever_blocks_end(tmp_path, monkeypatch):
    rows = [GOOD] * 40
    for place in (0, 7, 8, 23, 39):
        rows[place] = GOOD.replace("UDP", f"P{place}")
    path = written(tmp_path, HEAD + "".join(rows))
    for size in (64, 100, 999, 1 << 20):
        monkeypatch.setattr(logs, "_BLOCK_BYTES", size)
        lines, log = read(path)
        assert len(flat(lines)) == 35
        assert [damage.line for damage in log.damages.first] == [2, 9, 10, 25, 41]
        assert [damage.offset for damage in log.damages.first] == [
            len(HEAD) + sum(map(len, rows[:place])) for place in (0, 7, 8, 23, 39)
        ]


def test_a_log_of_wrong_lines_is_given_up(tmp_path):
    path = written(tmp_path, HEAD + GOOD.replace("UDP", "nonsense") * 3000)
    lines, log = read(path)
    assert lines == [] and 1000 < log.damages.count < 1200
    assert len(log.damages.first) == 10


@pytest.mark.parametrize("size", [0.2, 0.5, 0.9, 0.999])
def test_a_log_cut_in_a_line_keeps_all_lines_before(size, tmp_path):
    whole = (FOLDER / "border-1.6.nfdump.csv").read_bytes()
    whole = whole[: whole.index(b"Summary")]
    cut = whole[: int(len(whole) * size)]
    lines, log = read(written(tmp_path, cut))
    assert len(flat(lines)) == cut.count(b"\n") - 1
    assert log.damages.count == 1 and log.damages.first[0].line == cut.count(b"\n") + 1


def test_a_cut_gzip_keeps_what_could_be_unpacked(tmp_path):
    whole = gzip.compress(
        (HEAD + "".join(GOOD.replace("40000", str(number)) for number in range(9000))).encode()
    )
    lines, log = read(written(tmp_path, whole, "x.csv.gz"))
    assert len(flat(lines)) == 9000 and log.damages.count == 0
    lines, log = read(written(tmp_path, whole[: len(whole) // 2], "x.csv.gz"))
    assert 1000 < len(flat(lines)) < 9000
    assert any("breaks off" in damage.what for damage in log.damages.first)


def test_zstandard_is_unpacked(tmp_path):
    with pa.CompressedOutputStream(str(tmp_path / "x.csv.zst"), "zstd") as stream:
        stream.write((HEAD + GOOD * 9).encode())
    lines, _ = read(tmp_path / "x.csv.zst")
    assert len(flat(lines)) == 9


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "it is empty"),
        (
            "hello\n",
            "neither a capture .* nor a flow log .*; its first line is 'hello'",
        ),
        (GOOD * 2, "run it without -q"),
        ("a,b,c,d,e,f\n1,2,3,4,5,6\n", "say which is which with --map"),
        (b"\x7fELF\0\0\0\n" * 9, "neither a capture"),
        (b"PAR1 and then nothing that Parquet would write", "index stands at its end"),
    ],
)
def test_what_is_no_flow_log_is_refused_with_what_to_do(text, says, tmp_path):
    with pytest.raises(NotAFlowLog, match=says):
        read(written(tmp_path, text))


def table(count, **changes):
    columns = {
        "start": pa.array(np.arange(count) + 1731229200, pa.timestamp("s", "UTC")),
        "src": pa.array(["203.0.113.7", "2001:db8::1"] * (count // 2)),
        "dst": pa.array(["198.51.100.9", "2001:db8::2"] * (count // 2)),
        "proto": pa.array(["UDP"] * count),
        "src_port": pa.array([40000] * count, pa.int32()),
        "dst_port": pa.array([51820] * count, pa.int32()),
        "packets": pa.array([3] * count),
        "bytes": pa.array([300] * count),
    }
    return pa.table(columns | changes)


def test_addresses_may_be_text_numbers_or_bytes(tmp_path):
    four = [ip_address("203.0.113.7"), ip_address("198.51.100.9")]
    mapped = [b"\0" * 10 + b"\xff\xff" + each.packed for each in four]
    expected = None
    for src, dst in (
        ([str(four[0])], [str(four[1])]),
        (pa.array([int(four[0])], pa.uint32()), pa.array([int(four[1])], pa.int64())),
        (pa.array([four[0].packed], pa.binary(4)), pa.array([four[1].packed], pa.binary())),
        (pa.array([mapped[0]], pa.binary(16)), pa.array([mapped[1]], pa.binary(16))),
        (pa.array([str(four[0])]).dictionary_encode(), pa.array([str(four[1])]).dictionary_encode()),
    ):
        path = tmp_path / "x.parquet"
        columns = table(2).slice(0, 1).to_pydict() | {"src": src, "dst": dst}
        parquet.write_table(pa.table(columns), path)
        found = flat(read(path)[0])
        expected = expected or found
        assert found == expected and len(found) == 1


def test_a_broken_row_group_costs_itself_only(tmp_path):
    path = tmp_path / "x.parquet"
    parquet.write_table(table(40), path, row_group_size=10, compression="NONE")
    place = parquet.ParquetFile(path).metadata.row_group(1)
    offset = place.column(1).dictionary_page_offset or place.column(1).data_page_offset
    data = bytearray(path.read_bytes())
    data[offset : offset + 20] = b"\xff" * 20
    path.write_bytes(data)
    lines, log = read(path)
    assert len(flat(lines)) == 30
    (damage,) = log.damages.first
    assert "row group 1" in damage.what and "10 of its 10 flows" in damage.what
    assert place.column(0).data_page_offset - 200 <= damage.offset <= offset


def test_wrong_values_of_parquet_cost_their_row_group(tmp_path):
    path = tmp_path / "x.parquet"
    ports = pa.array([51820] * 15 + [70000] + [51820] * 4, pa.int32())
    parquet.write_table(table(20, dst_port=ports), path, row_group_size=10)
    lines, log = read(path)
    assert len(flat(lines)) == 10 and "70000 is not a port" in log.damages.first[0].what


@settings(max_examples=60, deadline=None)
@given(some.lists(some.one_of(some.ip_addresses(v=4), some.ip_addresses(v=6)), max_size=30))
def test_parsing_addresses_is_what_ipaddress_does(those):
    column = addresses.column(pa.array([str(each) for each in those], pa.string()))
    for place, each in enumerate(those):
        if each.version == 4:
            assert column.four[place] == int(each) and (column.is_six is None or not column.is_six[place])
        else:
            assert column.is_six[place]
            assert int(column.six[place][0]) << 64 | int(column.six[place][1]) == int(each)


@settings(max_examples=200, deadline=None)
@given(some.text(alphabet="0123456789.:ax /", max_size=18))
def test_a_text_is_an_address_here_when_it_is_one(text):
    try:
        column = addresses.column(pa.array([text]))
    except addresses.NotAddresses:
        with pytest.raises(ValueError):
            ip_address(text)
        return
    version = 4 if column.is_six is None else 6
    parts = [part.lstrip("0") or "0" for part in text.split(".")] if version == 4 else [text]
    assert ip_address(".".join(parts)).version == version  # leading zeros are read as decimal


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("start", "'start' is no mapping"),
        ("when=ts", "'when' is no field"),
        ("src=a,src=b", "'src' is there twice"),
        ("start=ts@min,src=a", "'min' is no unit"),
        ("start=ts", "no column for 'src'"),
    ],
)
def test_a_wrong_mapping_says_what_to_write(text, says):
    with pytest.raises(ValueError, match=says):
        parse_mapping(text)


def test_a_wrong_mapping_file_says_where(tmp_path):
    with pytest.raises(FileError) as caught:
        load_mapping(written(tmp_path, "src: a\ndst: b\nunit: min\nport: 5\n", "m.yaml"))
    text = str(caught.value)
    assert "m.yaml:3:7" in text and "'proto' is missing" in text and "port" in text


def test_a_column_that_is_not_there_is_named():
    mapping = Mapping("m", {name: name for name in FIELDS[:6]} | {"bytes": "octets"})
    with pytest.raises(ValueError, match="no column 'octets' for bytes"):
        choose(FIELDS[:6], mapping, False)
