"""Lines of a flow log as columns, and what one line means: the specification the vectorised judge is checked against."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from enforcer.allowlist import Allowlist
from enforcer.cells import Index
from enforcer.decide import Flow, Verdict, decide
from enforcer.packet import SYN, Packet
from enforcer.policy import Policy
from enforcer.protocols import TCP, UDP

Direction = Literal["either", "opener"]
Addresses = NDArray[np.uint32] | NDArray[np.uint64]

# Enough to say "this flow has a payload" and too short for any first message: a flow log has no payload to look at.
_UNKNOWN_PAYLOAD = b"\0"


@dataclass(frozen=True, slots=True)
class Lines:
    """Flow lines of one address family, a column an array.

    src, dst: IPv4 as n numbers (uint32), IPv6 as n rows of two (uint64, high half first). protocol: IP protocol numbers.
    start_ns: Unix time. packets, bytes: of the whole line, both directions where the log has both.
    """

    version: Literal[4, 6]
    src: Addresses
    dst: Addresses
    protocol: NDArray[np.uint8]
    src_port: NDArray[np.uint16]
    dst_port: NDArray[np.uint16]
    start_ns: NDArray[np.int64]
    packets: NDArray[np.int64]
    bytes: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.protocol)

    def take(self, index: NDArray) -> Lines:
        """The lines at these positions (or under this mask)."""
        return Lines(
            self.version,
            self.src[index],
            self.dst[index],
            self.protocol[index],
            self.src_port[index],
            self.dst_port[index],
            self.start_ns[index],
            self.packets[index],
            self.bytes[index],
        )

    def turned(self, which: NDArray[np.bool_]) -> Lines:
        """The same lines, source and destination changed places where `which` says so."""
        wide = which if self.version == 4 else which[:, None]
        return Lines(
            self.version,
            np.where(wide, self.dst, self.src),
            np.where(wide, self.src, self.dst),
            self.protocol,
            np.where(which, self.dst_port, self.src_port),
            np.where(which, self.src_port, self.dst_port),
            self.start_ns,
            self.packets,
            self.bytes,
        )


def number(version: int, addresses: Addresses, position: int) -> int:
    """One address of a column as a number."""
    if version == 4:
        return int(addresses[position])
    high, low = addresses[position]
    return int(high) << 64 | int(low)


def decide_line(
    lines: Lines,
    position: int,
    allowlist: Allowlist | Index,
    policy: Policy,
    at_ns: int | None,
    direction: Direction,
) -> tuple[Verdict, bool]:
    """The verdict about one line, and whether it was turned round to get it.

    A line is judged as the first packet of its flow, with a payload nothing is known of: so ports and protocol numbers decide.
    Under "either" a UDP or TCP line that shows no VPN as it stands is judged as its answer too, for a flow exporter writes a line
    for each direction. at_ns: when to judge (None: at the line's start).
    """
    now_ns = int(lines.start_ns[position]) if at_ns is None else at_ns
    src, dst = (number(lines.version, column, position) for column in (lines.src, lines.dst))
    src_port, dst_port = int(lines.src_port[position]), int(lines.dst_port[position])
    protocol = int(lines.protocol[position])

    def judged(src: int, src_port: int, dst: int, dst_port: int) -> Verdict:
        flags = SYN if protocol == TCP else 0
        packet = Packet(
            lines.version,
            src,
            dst,
            protocol,
            src_port=src_port,
            dst_port=dst_port,
            tcp_flags=flags,
            payload=_UNKNOWN_PAYLOAD,
        )
        return decide(packet, Flow(), allowlist, policy, now_ns)

    verdict = judged(src, src_port, dst, dst_port)
    if direction == "either" and verdict.protocol is None and protocol in (TCP, UDP):
        turned = judged(dst, dst_port, src, src_port)
        if turned.protocol is not None:
            return turned, True
    return verdict, False
