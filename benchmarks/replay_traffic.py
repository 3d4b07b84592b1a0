"""The traffic that benchmarks/replay.py replays: a border's flows and packets, and an allowlist that covers half of its VPN."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as csv
import pyarrow.parquet as parquet

from enforcer.allowlist import Entry
from enforcer.replay.lines import Lines

_START_NS = 1_731_229_200_000_000_000
_PIECE = 1 << 20
# Of "CSV by mapping", for --map.
MAPPING = "start=when@ms,src=source,src-port=sport,dst=destination,dst-port=dport,proto=protocol,packets=pkts,bytes=octets"
_TCP, _UDP, _ICMP, _ESP = 6, 17, 1, 50
# Protocol, port at the server, share in thousandths; what is left over to a thousand are high ports on both sides.
_MIX = (
    (_TCP, 443, 400),
    (_UDP, 443, 180),
    (_UDP, 53, 180),
    (_TCP, 80, 60),
    (_UDP, 3478, 25),
    (_TCP, 5223, 20),
    (_TCP, 25, 10),
    (_ICMP, 0, 15),
)
_VPN_MIX = ((_UDP, 51820, 500), (_UDP, 1194, 200), (_UDP, 4500, 150), (_TCP, 1194, 100), (_ESP, 0, 50))


def entries(count: int) -> list[Entry]:
    """Half with a named port; one in a hundred IPv6."""
    found = []
    for number in range(count):
        low = f"{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"
        line, server = f"10.{low}/32", f"198.{low}/32"
        if number % 100 == 0:
            line, server = f"2001:db8:0:{number & 65535:x}::/64", f"2001:db8:ffff::{number & 65535:x}/128"
        found.append(Entry(number + 1, f"r{number}", (line,), (server,), (51820,) if number % 2 else ()))
    return found


def lines(draw: np.random.Generator, count: int, people: int, vpn_share: float) -> Lines:
    """IPv4 flows as an exporter at a border writes them, each direction a line.

    Four times as many subscribers as registrations and 500,000 servers, few of them with most of the traffic; half of the VPN is
    between a registered line and its own server.
    """
    is_vpn = draw.random(count) < vpn_share
    registered = (people * draw.random(count) ** 2).astype(np.uint32)
    line = np.where(is_vpn, registered, (4 * people * draw.random(count) ** 2).astype(np.uint32))
    server = (500_000 * draw.random(count) ** 3).astype(np.uint32) * np.uint32(2_654_435_761)
    stranger = 0xC6000000 + registered + (draw.random(count) < 0.5) * np.uint32(1 << 23)
    far = np.where(is_vpn, stranger, server).astype(np.uint32)
    near = (0x0A000000 + line).astype(np.uint32)
    protocol, far_port = _kinds(draw, count, _MIX)
    vpn_protocol, vpn_port = _kinds(draw, count, _VPN_MIX)
    protocol, far_port = np.where(is_vpn, vpn_protocol, protocol), np.where(is_vpn, vpn_port, far_port)
    has_ports = (protocol == _TCP) | (protocol == _UDP)
    near_port = np.where(has_ports, draw.integers(32768, 61000, count), 0).astype(np.uint16)
    packets = draw.geometric(0.08, count).astype(np.int64)
    is_answer = draw.random(count) < 0.5
    return Lines(
        4,
        np.where(is_answer, far, near),
        np.where(is_answer, near, far),
        protocol.astype(np.uint8),
        np.where(is_answer, far_port, near_port).astype(np.uint16),
        np.where(is_answer, near_port, far_port).astype(np.uint16),
        _START_NS + np.sort(draw.integers(0, 3600 * 1000, count)) * 1_000_000,
        packets,
        packets * draw.integers(60, 1400, count),
    )


def _kinds(
    draw: np.random.Generator, count: int, mix: tuple[tuple[int, int, int], ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Protocols and the servers' ports."""
    which = np.searchsorted(np.cumsum([share for _, _, share in mix]), draw.integers(0, 1000, count), "right")
    protocol = np.array([each for each, _, _ in mix] + [_UDP])[which]
    port = np.array([each for _, each, _ in mix] + [0])[which]
    return protocol, np.where(which == len(mix), draw.integers(1024, 65536, count), port)


class Logs:
    """The same flows in each format. numbers: addresses as numbers; text: as text, encoded as Parquet chooses; plain: text without a dictionary."""

    def __init__(self, folder: Path) -> None:
        self.paths = {
            "Parquet, numbers": folder / "numbers.parquet",
            "Parquet, text": folder / "text.parquet",
            "Parquet, plain text": folder / "plain.parquet",
            "nfdump CSV": folder / "nfdump.csv",
            "CSV by mapping": folder / "mapped.csv",
        }

    def write(self, flows: int, people: int, vpn_share: float) -> None:
        writers: dict[str, parquet.ParquetWriter | csv.CSVWriter] = {}
        for tables in _tables(flows, people, vpn_share):
            for name, table in tables.items():
                if name not in writers:
                    writers[name] = self._writer(name, table.schema)
                writers[name].write_table(table)
        for writer in writers.values():
            writer.close()

    def _writer(self, name: str, schema: pa.Schema) -> parquet.ParquetWriter | csv.CSVWriter:
        path = self.paths[name]
        if path.suffix == ".csv":
            return csv.CSVWriter(path, schema, write_options=csv.WriteOptions(quoting_style="none"))
        return parquet.ParquetWriter(path, schema, use_dictionary=name != "Parquet, plain text")  # type: ignore[arg-type]


def _tables(flows: int, people: int, vpn_share: float) -> Iterator[dict[str, pa.Table]]:
    draw = np.random.default_rng(2)
    names = pa.array(["TCP", "UDP", "ICMP", "ESP"])
    code = np.zeros(256, np.int8)
    code[[_TCP, _UDP, _ICMP, _ESP]] = range(4)
    for begin in range(0, flows, _PIECE):
        made = lines(draw, min(_PIECE, flows - begin), people, vpn_share)
        src, dst = dotted(made.src), dotted(made.dst)
        proto = pa.DictionaryArray.from_arrays(pa.array(code[made.protocol]), names)
        ms = made.start_ns // 1_000_000
        rest = {
            "src_port": pa.array(made.src_port),
            "dst_port": pa.array(made.dst_port),
            "packets": pa.array(made.packets),
            "bytes": pa.array(made.bytes),
        }
        start = pa.array(ms, pa.timestamp("ms"))
        numbers = pa.table(
            {
                "start": start,
                "src": pa.array(made.src),
                "dst": pa.array(made.dst),
                "proto": pa.array(made.protocol),
                **rest,
            }
        )
        text = pa.table({"start": start, "src": src, "dst": dst, "proto": proto.cast(pa.string()), **rest})
        yield {
            "Parquet, numbers": numbers,
            "Parquet, text": text,
            "Parquet, plain text": text,
            "nfdump CSV": _nfdump(start, src, dst, proto, made),
            "CSV by mapping": pa.table(
                {
                    "when": pa.array(ms),
                    "source": src,
                    "sport": rest["src_port"],
                    "destination": dst,
                    "dport": rest["dst_port"],
                    "protocol": pa.array(made.protocol),
                    "pkts": rest["packets"],
                    "octets": rest["bytes"],
                    "router": pa.array(np.ones(len(made), np.int8)),
                }
            ),
        }


def _nfdump(start: pa.Array, src: pa.Array, dst: pa.Array, proto: pa.Array, made: Lines) -> pa.Table:
    """The columns of nfdump 1.7's `-o csv` (its default since 1.7.5)."""
    when = start.cast(pa.timestamp("ms")).cast(pa.string())
    return pa.table(
        {
            "firstSeen": when,
            "duration": pa.array(np.full(len(made), 1.5)),
            "proto": proto.cast(pa.string()),
            "srcAddr": src,
            "srcPort": pa.array(made.src_port),
            "dstAddr": dst,
            "dstPort": pa.array(made.dst_port),
            "packets": pa.array(made.packets),
            "bytes": pa.array(made.bytes),
            "flows": pa.array(np.ones(len(made), np.int8)),
        }
    )


def dotted(numbers: np.ndarray) -> pa.Array:
    distinct, place = np.unique(numbers, return_inverse=True)
    texts = pa.array(
        [f"{each >> 24}.{each >> 16 & 255}.{each >> 8 & 255}.{each & 255}" for each in distinct.tolist()]
    )
    return texts.take(pa.array(place))


def write_captures(pcap: Path, pcapng: Path, packets: int) -> None:
    """Ethernet, IPv4; 30 packets a flow, of which 1 in 20 is WireGuard's; 200 to 1,400 bytes."""
    draw = np.random.default_rng(3)
    made = [_frame(draw, number) for number in range(min(max(1, packets // 30), 50_000))]
    order = draw.integers(0, len(made), packets)
    with pcap.open("wb") as old, pcapng.open("wb") as new:
        old.write(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1))
        new.write(struct.pack("<IIIHHqI", 0x0A0D0D0A, 28, 0x1A2B3C4D, 1, 0, -1, 28))
        new.write(struct.pack("<IIHHII", 1, 20, 1, 0, 65535, 20))
        for place, number in enumerate(order.tolist()):
            frame = made[number]
            second, micro = 1_731_229_200 + place // 200_000, place % 200_000 * 5
            old.write(struct.pack("<IIII", second, micro, len(frame), len(frame)))
            old.write(frame)
            padded = frame + bytes(-len(frame) % 4)
            stamp, size = second * 1_000_000 + micro, 32 + len(padded)
            new.write(
                struct.pack("<IIIIIII", 6, size, 0, stamp >> 32, stamp & 0xFFFFFFFF, len(frame), len(frame))
            )
            new.write(padded + struct.pack("<I", size))


def _frame(draw: np.random.Generator, number: int) -> bytes:
    is_vpn = number % 20 == 0
    payload = b"\1\0\0\0" + b"\xa5" * 144 if is_vpn else b"\xc0" * int(draw.integers(160, 1360))
    udp = (
        struct.pack("!HHHH", 1024 + number % 60_000, 51820 if is_vpn else 443, 8 + len(payload), 0) + payload
    )
    src = struct.pack("!I", 0x0A000000 + number)
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0) + src + b"\xc6\x33\x64\x09"
    return b"\2" * 12 + b"\x08\0" + head + udp
