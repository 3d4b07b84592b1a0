"""What others would write, for comparison: plain forwarding, hand-written nft, ipset with iptables, NFQUEUE in Python.

Each has load(indices), change(add, remove), and, where packets wait for the process, serve(); indices are those of dataplanes_world.
"""

from __future__ import annotations

import selectors
import socket
import struct
import subprocess
from collections.abc import Iterable, Sequence

from dataplanes_world import dotted, ends

_PORTS = "51820, 1194, 500, 4500, 1701, 1723"


class Plain:
    """Forwarding with nothing in its way, not even connection tracking."""

    needs: tuple[str, ...] = ()

    def load(self, indices: Sequence[int]) -> None:
        pass

    def change(self, add: Sequence[int], remove: Sequence[int]) -> None:
        pass


class Tracking(Plain):
    """Connection tracking and one rule on its mark: the least a dataplane with per-flow state in nftables can cost."""

    needs = ("nft",)

    def load(self, indices: Sequence[int]) -> None:
        _run(
            ["nft", "-f", "-"],
            "table inet tracking {\nchain forward {\ntype filter hook forward priority filter\nct mark 1 accept\n}\n}",
        )


class IntervalSet:
    """nft by hand: VPN ports are let through for lines in an interval set, dropped otherwise. Changed by the nft program."""

    needs = ("nft",)

    def load(self, indices: Sequence[int]) -> None:
        lines = ", ".join(dotted(ends(index)[0]) for index in indices)
        _run(
            ["nft", "-f", "-"],
            f"""table ip hand {{
                set lines {{ type ipv4_addr; flags interval; elements = {{ {lines} }} }}
                chain forward {{
                    type filter hook forward priority filter; policy accept;
                    meta l4proto {{ tcp, udp }} th dport {{ {_PORTS} }} goto vpn
                }}
                chain vpn {{ ip saddr @lines accept; drop; }}
            }}""",
        )

    def change(self, add: Sequence[int], remove: Sequence[int]) -> None:
        commands = []
        for verb, indices in (("delete", remove), ("add", add)):
            if indices:
                lines = ", ".join(dotted(ends(index)[0]) for index in indices)
                commands.append(f"{verb} element ip hand lines {{ {lines} }}")
        _run(["nft", "-f", "-"], "\n".join(commands))


class IpSet:
    """ipset hash:ip,port,ip asked by iptables. Changed by the ipset program; a change of many is not one step."""

    needs = ("ipset", "iptables")

    def load(self, indices: Sequence[int]) -> None:
        size = max(65536, 2 * len(indices))
        create = f"create allow hash:ip,port,ip maxelem {size} hashsize {max(1024, len(indices))}"
        _run(["ipset", "restore"], "\n".join([create, *self._lines("add", indices)]) + "\n")
        for transport in ("udp", "tcp"):
            match = [
                "iptables",
                "-A",
                "FORWARD",
                "-p",
                transport,
                "-m",
                "multiport",
                "--dports",
                _PORTS.replace(" ", ""),
            ]
            _run([*match, "-m", "set", "--match-set", "allow", "src,dst,dst", "-j", "ACCEPT"])
            _run([*match, "-j", "DROP"])  # fmt: skip

    def change(self, add: Sequence[int], remove: Sequence[int]) -> None:
        lines = [*self._lines("del", remove), *self._lines("add", add)]
        _run(["ipset", "restore"], "\n".join(lines) + "\n")

    @staticmethod
    def _lines(verb: str, indices: Iterable[int]) -> list[str]:
        lines = []
        for index in indices:
            line, endpoint, port, protocol = ends(index)
            transport = "tcp" if protocol == "openvpn-tcp" else "udp"
            lines.append(f"{verb} allow {dotted(line)},{transport}:{port},{dotted(endpoint)}")
        return lines


class PythonQueue:
    """Every forwarded packet goes to Python, which looks its ends up in a set: the first thing most people would write."""

    needs = ("iptables",)

    def __init__(self) -> None:
        self._allowed: set[bytes] = set()
        self._ports = {int(port) for port in _PORTS.split(",")}
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12)  # NETLINK_NETFILTER
        self._socket.bind((0, 0))
        self._socket.setsockopt(socket.SOL_SOCKET, 33, 8 << 20)  # SO_RCVBUFFORCE
        self._socket.setsockopt(270, 5, 1)  # SOL_NETLINK, NETLINK_NO_ENOBUFS: a full buffer drops, quietly
        # linux/netfilter/nfnetlink_queue.h: bind, copy 128 bytes, whole merged segments, queue length
        self._configure(1, struct.pack("!BBH", 1, 0, socket.AF_INET))
        self._configure(2, struct.pack("!IB", 128, 2))
        self._configure(5, struct.pack("!I", 4), 4, struct.pack("!I", 4))
        self._configure(3, struct.pack("!I", 4096))

    def load(self, indices: Sequence[int]) -> None:
        self._allowed = {self._key(index) for index in indices}
        _run(["iptables", "-A", "FORWARD", "-j", "NFQUEUE", "--queue-num", "0"])

    def change(self, add: Sequence[int], remove: Sequence[int]) -> None:
        self._allowed.difference_update(map(self._key, remove))
        self._allowed.update(map(self._key, add))

    def register(self, selector: selectors.BaseSelector) -> None:
        self._socket.setblocking(False)
        selector.register(self._socket, selectors.EVENT_READ, self.serve)

    def serve(self) -> None:
        for _ in range(64):
            try:
                data = self._socket.recv(65536)
            except BlockingIOError:
                return
            if len(data) > 20 and data[4:6] == b"\0\3":  # NFQNL_MSG_PACKET of NFNL_SUBSYS_QUEUE
                self._decide(data)

    def _decide(self, data: bytes) -> None:
        place, packet_id, packet = 20, b"", b""
        while place + 4 <= len(data):
            size, kind = struct.unpack_from("=HH", data, place)
            if kind & 0x3FFF == 1:
                packet_id = data[place + 4 : place + 8]
            elif kind & 0x3FFF == 10:
                packet = data[place + 4 : place + size]
            place += (size + 3) & ~3
        start = (packet[0] & 15) * 4
        port = int.from_bytes(packet[start + 2 : start + 4], "big")
        key = packet[12:20] + packet[start + 2 : start + 4]
        passes = port not in self._ports or key in self._allowed
        verdict = struct.pack("=HH", 12, 2) + struct.pack("!I", passes) + packet_id
        self._socket.send(struct.pack("=IHHII", 32, 0x301, 1, 0, 0) + b"\0\0\0\0" + verdict)

    def _configure(self, kind: int, value: bytes, other: int = 0, other_value: bytes = b"") -> None:
        body = b"\0\0\0\0"
        for name, data in ((kind, value), (other, other_value)):
            if name:
                body += struct.pack("=HH", 4 + len(data), name) + data + b"\0" * (-len(data) % 4)
        self._socket.send(struct.pack("=IHHII", 16 + len(body), 0x302, 5, 0, 0) + body)
        code = struct.unpack_from("=i", self._socket.recv(65536), 16)[0]
        if code != 0:
            raise OSError(-code, "NFQUEUE cannot be configured")

    @staticmethod
    def _key(index: int) -> bytes:
        line, endpoint, port, _ = ends(index)
        return struct.pack("!IIH", line, endpoint, port)


def _run(argv: list[str], text: str = "") -> None:
    done = subprocess.run(argv, input=text, capture_output=True, text=True)
    if done.returncode != 0:
        raise OSError(f"{' '.join(argv)[:120]}: {(done.stderr or done.stdout).strip()[:300]}")
