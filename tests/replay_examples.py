"""Makes the small examples that ship with `enforcer replay`: one hour of one border, as flow logs and as a capture.

`python -m tests.replay_examples` writes them anew; tests/test_enforcer_replay_examples.py reads them and holds them against this.
"""

from __future__ import annotations

import csv
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as parquet
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Raw
from scapy.utils import PcapWriter

from tests import enforcer_packets as make

FOLDER = Path(__file__).resolve().parents[1] / "enforcer" / "replay" / "examples"
BEGIN_S = int(datetime(2024, 11, 10, 9, tzinfo=UTC).timestamp())
_NAMES = {6: "TCP", 17: "UDP", 1: "ICMP", 47: "GRE", 50: "ESP"}


class Line(NamedTuple):
    """One flow as an exporter at the border sees it. first: the first payload of its opener."""

    after_s: float
    src: str
    src_port: int
    dst: str
    dst_port: int
    protocol: int
    packets: int
    bytes: int
    first: bytes = b""
    is_answer: bool = False


def entry(registration, registrant, lines, endpoints, ports=(), protocols=(), until_s=None):
    return {
        "registration": registration,
        "registrant": registrant,
        "subscriber_prefixes": lines,
        "endpoint_prefixes": endpoints,
        "endpoint_ports": list(ports),
        "protocols": list(protocols),
        "valid_from_ns": 0,
        "valid_until_ns": None if until_s is None else until_s * 1_000_000_000,
    }


ALLOWLIST = {
    "schema": "allowlab.feed/1",
    "kind": "snapshot",
    "serial": 41,
    "issued_ns": BEGIN_S * 1_000_000_000,
    "entries": [
        entry(
            3,
            "softhouse",
            ["203.0.113.7/32", "2001:db8:7::/64"],
            ["198.51.100.9/32", "2001:db8:9::9/128"],
            [51820],
        ),
        entry(5, "callcentre", ["203.0.113.64/28"], ["198.51.100.20/32"], (), ["ikev2"]),
        entry(8, "ayesha", ["203.0.113.130/32"], ["192.0.2.44/32"], [1194], ["openvpn-udp"], BEGIN_S + 1800),
        entry(9, "relief-ngo", ["203.0.113.200/32"], ["198.51.100.77/32"], [1194]),
    ],
}


def both_ways(after_s, src, src_port, dst, dst_port, protocol, packets, octets, first=b""):
    yield Line(after_s, src, src_port, dst, dst_port, protocol, packets, octets, first)
    yield Line(after_s + 0.04, dst, dst_port, src, src_port, protocol, packets * 2, octets * 5, b"", True)


def lines():
    """Softhouse as registered, and at an endpoint it forgot to register; the call centre's IPsec; a freelancer whose registration
    ends at half past; an NGO whose address changed; a hospital nobody registered; Wi-Fi calling; and everything else."""
    found: list[Line] = []
    for number in range(12):
        after_s = 300 * number
        found += both_ways(
            after_s + 1,
            "203.0.113.7",
            40001,
            "198.51.100.9",
            51820,
            17,
            900,
            700_000,
            make.WIREGUARD_INITIATION,
        )
        found += both_ways(
            after_s + 9, "203.0.113.66", 500, "198.51.100.20", 500, 17, 4, 1800, make.IKE_SA_INIT
        )
        found += both_ways(
            after_s + 10, "203.0.113.66", 0, "198.51.100.20", 0, 50, 4000, 2_400_000, b"\xa5" * 80
        )
        found += both_ways(
            after_s + 20, "203.0.113.130", 50002, "192.0.2.44", 1194, 17, 500, 260_000, make.OPENVPN_RESET
        )
    for number in range(4):
        after_s = 700 * number
        found += both_ways(
            after_s + 60,
            "203.0.113.7",
            40010,
            "198.51.100.10",
            51820,
            17,
            300,
            210_000,
            make.WIREGUARD_INITIATION,
        )
        found += both_ways(
            after_s + 65,
            "2001:db8:7::21",
            40011,
            "2001:db8:9::9",
            51820,
            17,
            300,
            250_000,
            make.WIREGUARD_INITIATION,
        )
        found += both_ways(
            after_s + 70,
            "203.0.113.201",
            50300 + number,
            "198.51.100.77",
            1194,
            17,
            80,
            41_000,
            make.OPENVPN_RESET,
        )
    hospital = "203.0.113.33"
    found += both_ways(480, hospital, 500, "198.51.100.150", 500, 17, 4, 1500, make.IKE_SA_INIT)
    found += both_ways(
        481, hospital, 4500, "198.51.100.150", 4500, 17, 2500, 1_900_000, b"\0\0\0\0" + make.IKE_SA_INIT
    )
    found += both_ways(
        482,
        "2001:db8:33::5",
        41000,
        "2001:db8:44::4",
        1194,
        6,
        60,
        30_000,
        make.behind_length(make.OPENVPN_RESET),
    )
    found += both_ways(900, "203.0.113.90", 500, "192.0.2.130", 500, 17, 4, 1700, make.IKE_SA_INIT)
    found += both_ways(1200, "203.0.113.41", 43000, "198.51.100.160", 1723, 6, 20, 2000, make.PPTP_REQUEST)
    found.append(Line(1201, "203.0.113.41", 0, "198.51.100.160", 0, 47, 800, 520_000, make.GRE_PPTP))
    found.append(Line(1300, "203.0.113.50", 0, "198.51.100.161", 0, 47, 100, 60_000, make.GRE_PLAIN))
    # WireGuard at a port that says nothing: a flow log cannot tell it from anything else.
    found += both_ways(
        1500, "203.0.113.44", 45000, "198.51.100.170", 8443, 17, 700, 600_000, make.WIREGUARD_INITIATION
    )
    # A client whose port happens to be WireGuard's, talking to a web server: no VPN.
    found += both_ways(
        1600, "203.0.113.45", 51820, "192.0.2.10", 443, 17, 30, 20_000, make.LOOK_ALIKES["quic-initial"][2]
    )
    for number in range(30):
        client = f"203.0.113.{100 + number % 20}"
        found += both_ways(
            100 * number + 3,
            client,
            30000 + number,
            "192.0.2.10",
            443,
            6,
            40,
            9000,
            b"\x16\x03\x01\x02\0" + b"\xa5" * 99,
        )
        found += both_ways(
            100 * number + 2,
            client,
            20000 + number,
            "192.0.2.53",
            53,
            17,
            1,
            70,
            b"\x12\x34\1" + make.DNS_QUESTION[1:],
        )
    found.append(Line(2000, "203.0.113.100", 0, "192.0.2.53", 0, 1, 3, 252, b"\x08\0" + b"\0" * 30))
    return sorted(found)


def write(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "allowlist.json").write_text(json.dumps(ALLOWLIST, indent=1) + "\n")
    flows = lines()
    _write_1_6(folder / "border-1.6.nfdump.csv", flows)
    _write_1_7(folder / "border-1.7.nfdump.csv", flows)
    _write_plain(folder / "border.csv", flows)
    _write_parquet(folder / "border.parquet", flows)
    _write_capture(folder / "border.pcap", flows)


def _time(line: Line, digits: int) -> str:
    moment = datetime.fromtimestamp(BEGIN_S + line.after_s, UTC)
    text = moment.strftime("%Y-%m-%d %H:%M:%S")
    return f"{text}.{moment.microsecond // 1000:03d}" if digits else text


def _dst_port(line: Line) -> str:
    return "8.0" if line.protocol == 1 else str(line.dst_port)


def _write_1_6(path: Path, flows: list[Line]) -> None:
    head = "ts,te,td,sa,da,sp,dp,pr,flg,fwd,stos,ipkt,ibyt,opkt,obyt,in,out,sas,das,smk,dmk,dtos,dir,nh,nhb,svln,dvln,ismc,odmc,idmc,osmc,"
    head += ",".join(f"mpls{number}" for number in range(1, 11)) + ",cl,sl,al,ra,eng,exid,tr"
    rest = "0,0,3,7,0,0,0,0,0,0,0.0.0.0,0.0.0.0,0,0,00:00:00:00:00:00,00:00:00:00:00:00,00:00:00:00:00:00,00:00:00:00:00:00,"
    rest += ",".join(["0-0-0"] * 10) + ",0.000,0.000,0.000,0.0.0.0,0/0,1"
    with path.open("w") as file:
        print(head, file=file)
        for line in flows:
            when = _time(line, 0)
            print(
                f"{when},{when},2.000,{line.src},{line.dst},{line.src_port},{_dst_port(line)},{_NAMES[line.protocol]},........,0,0,"
                f"{line.packets},{line.bytes},{rest},1970-01-01 00:00:00.000",
                file=file,
            )
        print("Summary\nflows,bytes,packets,avg_bps,avg_pps,avg_bpp", file=file)
        octets, packets = sum(line.bytes for line in flows), sum(line.packets for line in flows)
        print(
            f"{len(flows)},{octets},{packets},{octets * 8 // 3600},{packets // 3600},{octets // packets}",
            file=file,
        )


def _write_1_7(path: Path, flows: list[Line]) -> None:
    with path.open("w") as file:
        print("firstSeen,duration,proto,srcAddr,srcPort,dstAddr,dstPort,packets,bytes,flows", file=file)
        for line in flows:
            print(
                f"{_time(line, 3)},00:00:02.000,{_NAMES[line.protocol]},{line.src},{line.src_port},{line.dst},{_dst_port(line)},"
                f"{line.packets},{line.bytes},1",
                file=file,
            )


def _write_plain(path: Path, flows: list[Line]) -> None:
    """Another program's columns: docs/replay.md maps them, border.mapping.yaml does too."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["when", "source", "sport", "destination", "dport", "protocol", "pkts", "octets"])
        for line in flows:
            ports = (line.src_port or "", line.dst_port or "")
            when = int((BEGIN_S + line.after_s) * 1000)
            writer.writerow(
                [when, line.src, ports[0], line.dst, ports[1], line.protocol, line.packets, line.bytes]
            )
    (path.parent / "border.mapping.yaml").write_text(
        "start: when\nunit: ms\nsrc: source\nsrc-port: sport\ndst: destination\ndst-port: dport\n"
        "proto: protocol\npackets: pkts\nbytes: octets\n"
    )


def _write_parquet(path: Path, flows: list[Line]) -> None:
    moments = [int((BEGIN_S + line.after_s) * 1000) for line in flows]
    columns = {
        "start": pa.array(moments, pa.timestamp("ms", "UTC")),
        "src": pa.array([line.src for line in flows]),
        "dst": pa.array([line.dst for line in flows]),
        "proto": pa.array([line.protocol for line in flows], pa.uint8()),
        "src_port": pa.array([line.src_port for line in flows], pa.uint16()),
        "dst_port": pa.array([line.dst_port for line in flows], pa.uint16()),
        "packets": pa.array([line.packets for line in flows], pa.int64()),
        "bytes": pa.array([line.bytes for line in flows], pa.int64()),
    }
    parquet.write_table(pa.table(columns), path)


def _write_capture(path: Path, flows: list[Line]) -> None:
    """The openers' first packets and one answer each, as a tap at the border would have them."""
    with PcapWriter(str(path), linktype=1, sync=False) as writer:
        for line in flows:
            layer = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02") / (
                IPv6(src=line.src, dst=line.dst) if ":" in line.src else IP(src=line.src, dst=line.dst)
            )
            payload = line.first or b"\x80" + b"\xa5" * 40
            if line.protocol == 17:
                packets = [layer / UDP(sport=line.src_port, dport=line.dst_port) / Raw(payload)]
            elif line.protocol == 6:
                flags = ["SA"] if line.is_answer else ["S", "A", "PA"]
                packets = [
                    layer
                    / TCP(sport=line.src_port, dport=line.dst_port, flags=each)
                    / (Raw(payload) if "P" in each else b"")
                    for each in flags
                ]
            else:
                layer.payload.proto = line.protocol
                packets = [layer / Raw(payload)]
            for number, packet in enumerate(packets):
                packet.time = BEGIN_S + line.after_s + number * 0.1
                writer.write(packet)


if __name__ == "__main__":
    write(FOLDER)
