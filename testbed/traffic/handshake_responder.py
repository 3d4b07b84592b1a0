"""Answers VPN handshakes as a server would, one process for any number of addresses, ports and protocols.

    python -m testbed.traffic.handshake_responder --keys FILE --udp 500,1194,1701,51820 --tcp 1194,1723 --raw esp,ah,gre

One socket a port serves all of the node's addresses and answers from the one that was asked (IP_PKTINFO); with
`ip route add local PREFIX dev lo` these can be thousands. What a packet is, its first bytes tell, so any protocol may be
on any port. Prints "ready" when it listens, and at its end (SIGTERM) how many packets it answered and ignored, as JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import socket
import struct
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from enforcer.thrifty import run
from testbed.traffic import handshakes_ike, handshakes_openvpn, handshakes_ppp, handshakes_raw
from testbed.traffic.handshakes_wireguard import INITIATION_BYTES, Responder

_IP_PKTINFO, _IPV6_FREEBIND = 8, 78  # linux/in.h, linux/in6.h; the socket module has no names for them
# Packets a socket may have before the others get their turn; in virtual time (testbed.world.uml.machine sets the variable) they come one by one,
# and finding out that there is no other is one more system call.
_IS_VIRTUAL = os.environ.get("ALLOWLAB_VIRTUAL_TIME") == "1"
_DRAIN = 1 if _IS_VIRTUAL else 64
_RECEIVE_BUFFER_BYTES = 4 << 20  # the kernel gives at most net.core.rmem_max
_BACKLOG = 4096
_TCP_PATIENCE_S = 10.0
_IN_PKTINFO = struct.Struct("=i4s4s")  # interface, local address, destination: ip(7)
_IN6_PKTINFO = struct.Struct("=16si")  # RFC 3542 §6
_PPTP_MAGIC = bytes.fromhex("1a2b3c4d")


@dataclass(frozen=True, slots=True)
class ResponderKeys:
    """What the probes of this responder must know: its WireGuard key (private half here), its tls-crypt key or None."""

    wireguard_private: bytes
    tls_crypt: str | None = None

    @classmethod
    def new(cls, tls_crypt: str | None = None) -> ResponderKeys:
        return cls(X25519PrivateKey.generate().private_bytes_raw(), tls_crypt)

    @property
    def wireguard_public(self) -> bytes:
        return X25519PrivateKey.from_private_bytes(self.wireguard_private).public_key().public_bytes_raw()

    def save(self, path: Path) -> None:
        """Write the file `--keys` reads, readable by its owner only."""
        data = {"wireguard_private": self.wireguard_private.hex(), "tls_crypt": self.tls_crypt}
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            json.dump(data, file)

    @classmethod
    def load(cls, path: Path) -> ResponderKeys:
        """Raises OSError, ValueError, KeyError when the file is missing or not such a file."""
        data = json.loads(path.read_text("utf-8"))
        return cls(bytes.fromhex(data["wireguard_private"]), data["tls_crypt"])


@dataclass(frozen=True, slots=True)
class Ports:
    """What a responder listens on: UDP and TCP ports, and names of protocols without ports."""

    udp: tuple[int, ...] = ()
    tcp: tuple[int, ...] = ()
    raw: tuple[str, ...] = ()


@dataclass(slots=True)
class Counts:
    answered: int = 0
    ignored: int = 0


class Answers:
    """The answer to a packet, by what its first bytes say it is."""

    def __init__(self, keys: ResponderKeys) -> None:
        self._wireguard = Responder(keys.wireguard_private)
        self._tls_crypt = handshakes_openvpn.TlsCrypt(keys.tls_crypt) if keys.tls_crypt else None

    def datagram(self, data: bytes) -> bytes | None:
        """The answer to a UDP payload; None for what a server would drop."""
        if len(data) == INITIATION_BYTES and data[0] == 1:
            return self._wireguard.answer(data)
        if data[:1] == b"\x38":
            return self._openvpn(data)
        if data[:2] == b"\xc8\x02":
            return handshakes_ppp.l2tp_answer(data)
        return handshakes_ike.answer(data)

    def stream(self, data: bytes) -> bytes | None:
        """The answer to all that came over a TCP connection; None while it is not whole. Raises ValueError for rubbish."""
        if len(data) < 8:
            return None
        if data[4:8] == _PPTP_MAGIC:
            return handshakes_ppp.pptp_answer(data)
        packet = handshakes_openvpn.unframed(data)
        if packet is None:
            return None
        answer = self._openvpn(packet)
        if answer is None:
            raise ValueError("not the start of a VPN protocol")
        return handshakes_openvpn.framed(answer)

    def _openvpn(self, data: bytes) -> bytes | None:
        if self._tls_crypt is not None:
            return self._tls_crypt.answer(data)
        return handshakes_openvpn.plain_answer(data)


async def serve(answers: Answers, ports: Ports, counts: Counts, is_ready: Callable[[], None]) -> None:
    """Answer until cancelled. Raises OSError naming the port that cannot be had."""
    loop = asyncio.get_running_loop()
    sockets: list[socket.socket] = []
    try:
        for family in (socket.AF_INET, socket.AF_INET6):
            for port in ports.udp:
                sockets.append(_datagram_socket(family, port))
                loop.add_reader(sockets[-1], _answer_all, sockets[-1], answers.datagram, 0, counts)
            for name in ports.raw:
                number = handshakes_raw.PROTOCOLS[name]
                sockets.append(
                    _prepared(socket.socket(family, socket.SOCK_RAW | socket.SOCK_NONBLOCK, number))
                )
                # An IPv4 raw socket hands over the IP header too: raw(7).
                skip = 20 if family == socket.AF_INET else 0
                loop.add_reader(sockets[-1], _answer_all, sockets[-1], _raw_answer(name), skip, counts)
        servers = [
            await asyncio.start_server(_stream_answer(answers, counts), None, port, backlog=_BACKLOG)
            for port in ports.tcp
        ]
        is_ready()
        await asyncio.gather(*(server.serve_forever() for server in servers), asyncio.Event().wait())
    finally:
        for each in sockets:
            loop.remove_reader(each)
            each.close()


def main() -> int:
    arguments = _arguments()
    ports, counts = Ports(arguments.udp, arguments.tcp, arguments.raw), Counts()
    try:
        answers = Answers(ResponderKeys.load(arguments.keys) if arguments.keys else ResponderKeys.new())
        run(_until_told(serve(answers, ports, counts, _say_ready)), is_thrifty=_IS_VIRTUAL)
    except (OSError, ValueError, KeyError) as error:
        print(f"handshake responder: {_words(error)}", file=sys.stderr)
        return 3
    print(json.dumps(asdict(counts)), flush=True)
    return 0


def _words(error: Exception) -> str:
    return (error.strerror or str(error)) if isinstance(error, OSError) else str(error)


async def _until_told(work) -> None:
    task = asyncio.ensure_future(work)
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    try:
        await task
    except asyncio.CancelledError:
        return


def _answer_all(
    sock: socket.socket, answer: Callable[[bytes], bytes | None], skip: int, counts: Counts
) -> None:
    is_v4 = sock.family == socket.AF_INET
    for _ in range(_DRAIN):
        try:
            data, ancillary, _flags, source = sock.recvmsg(2048, 128)
        except BlockingIOError:
            return
        except OSError:
            continue  # an ICMP error of an earlier answer
        reply = answer(data[skip:] if skip else data)
        if reply is None:
            counts.ignored += 1
            continue
        try:
            sock.sendmsg([reply], _from_asked(ancillary, is_v4), 0, source)
        except OSError:  # the route back is gone, or the buffer is full: a lost packet
            counts.ignored += 1
        else:
            counts.answered += 1


def _from_asked(ancillary: list[tuple[int, int, bytes]], is_v4: bool) -> list[tuple[int, int, bytes]]:
    """Control data that sends the answer from the address that was asked."""
    for level, kind, data in ancillary:
        if is_v4 and level == socket.IPPROTO_IP and kind == _IP_PKTINFO:
            _interface, _local, asked = _IN_PKTINFO.unpack(data)
            return [(level, kind, _IN_PKTINFO.pack(0, asked, asked))]
        if not is_v4 and level == socket.IPPROTO_IPV6 and kind == socket.IPV6_PKTINFO:
            asked, interface = _IN6_PKTINFO.unpack(data)
            return [(level, kind, _IN6_PKTINFO.pack(asked, interface if asked[:2] == b"\xfe\x80" else 0))]
    return []


def _stream_answer(answers: Answers, counts: Counts):
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        data = b""
        try:
            async with asyncio.timeout(_TCP_PATIENCE_S):
                while (reply := answers.stream(data)) is None:
                    more = await reader.read(2048)
                    if not more:
                        raise ValueError("closed before its first packet was whole")
                    data += more
                writer.write(reply)
                counts.answered += 1
                await reader.read()  # the client closes; a server that did would look like a reset
        except (ValueError, OSError, TimeoutError):
            counts.ignored += 1
        finally:
            writer.close()

    return handle


def _raw_answer(name: str) -> Callable[[bytes], bytes | None]:
    return lambda data: handshakes_raw.answer(name, data)


def _datagram_socket(family: socket.AddressFamily, port: int) -> socket.socket:
    sock = _prepared(socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK))
    try:
        sock.bind(("", port))
    except OSError as error:
        sock.close()
        raise OSError(error.errno, f"UDP port {port}: {error.strerror}") from None
    return sock


def _prepared(sock: socket.socket) -> socket.socket:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER_BYTES)
    if sock.family == socket.AF_INET:
        sock.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
    else:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        # IPv6 refuses a source address that is in no interface's list, as those of a local route are.
        sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_FREEBIND, 1)
        if sock.type == socket.SOCK_DGRAM:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    return sock


def _say_ready() -> None:
    print("ready", flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m testbed.traffic.handshake_responder", description=__doc__
    )
    parser.add_argument(
        "--keys", type=Path, help="file of ResponderKeys.save; without it WireGuard gets a new key"
    )
    parser.add_argument("--udp", type=_ports, default=(), metavar="PORT,…")
    parser.add_argument("--tcp", type=_ports, default=(), metavar="PORT,…")
    parser.add_argument("--raw", type=_raw_names, default=(), metavar="esp,ah,gre")
    return parser.parse_args()


def _ports(text: str) -> tuple[int, ...]:
    ports = tuple(int(part) for part in text.split(",") if part)
    if not all(1 <= port <= 65535 for port in ports):
        raise ValueError(text)
    return ports


def _raw_names(text: str) -> tuple[str, ...]:
    names = tuple(part for part in text.split(",") if part)
    if not set(names) <= set(handshakes_raw.PROTOCOLS):
        raise ValueError(text)
    return names


if __name__ == "__main__":
    sys.exit(main())
