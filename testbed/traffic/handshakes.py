"""First packets of VPN protocols and what counts as their answer, for flow attempts of thousands of registrants.

Protocol-exact: real servers answer them (raw samples excepted, which have no handshake). Built from struct templates;
the one that costs, WireGuard's (0.3 ms of Curve25519), can be built before the run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from testbed.traffic import handshakes_ike, handshakes_openvpn, handshakes_ppp, handshakes_raw
from testbed.traffic.handshakes_openvpn import TlsCrypt
from testbed.traffic.handshakes_wireguard import Initiator

# Protocol -> (transport, customary port; 0 for none).
PROBES = {
    "wireguard": ("udp", 51820),
    "openvpn-udp": ("udp", 1194),
    "openvpn-tcp": ("tcp", 1194),
    "ikev2": ("udp", 500),
    "ikev1": ("udp", 500),
    "l2tp": ("udp", 1701),
    "pptp": ("tcp", 1723),
    "esp": ("esp", 0),
    "ah": ("ah", 0),
    "gre": ("gre", 0),
    "gre-0": ("gre-0", 0),
}


@dataclass(slots=True)
class HandshakeProbe:
    """Requests 0, 1, 2, … of one protocol, each told from the others, and their answers.

    name makes the requests of one stream differ from another's; the same name gives the same ones (WireGuard's
    ephemeral keys excepted). wireguard_server is the server's public key, wireguard_private the client's key
    (None: a new one, for a responder that takes anybody; a real server knows its peers); tls_crypt is the text of an
    OpenVPN static key. Raises ValueError for an unknown protocol or a missing key.
    """

    protocol: str
    name: str = ""
    wireguard_server: bytes | None = None
    wireguard_private: bytes | None = None
    tls_crypt: str | None = None
    transport: str = field(init=False)
    port: int = field(init=False)
    _build: Callable[[int], bytes] = field(init=False)
    _check: Callable[[bytes, int | None], bool] = field(init=False)
    _seed: bytes = field(init=False)
    _prebuilt: dict[int, bytes] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        if self.protocol not in PROBES:
            raise ValueError(f"no handshake for '{self.protocol}'; there are {', '.join(PROBES)}")
        self.transport, self.port = PROBES[self.protocol]
        self._seed = hashlib.blake2s(f"{self.protocol}/{self.name}".encode()).digest()
        self._build, self._check = self._functions()

    def request(self, i: int) -> bytes:
        """The first packet of attempt i; over TCP, what is sent once connected. WireGuard: built in order of i for one key."""
        return self._prebuilt.pop(i, None) or self._build(i)

    def is_answer(self, data: bytes, i: int | None = None) -> bool:
        """Whether data is a server's answer (to attempt i when given).

        TCP: data is all that came so far, False means "not yet", and ValueError is raised when it can no longer be one.
        """
        return self._check(data, i)

    def prebuild(self, numbers: Iterable[int]) -> None:
        """Build the requests of these attempts now; request() then only hands them out, each once."""
        for i in numbers:
            self._prebuilt[i] = self._build(i)

    def _functions(self) -> tuple[Callable[[int], bytes], Callable[[bytes, int | None], bool]]:
        if self.protocol == "wireguard":
            return self._wireguard()
        if self.protocol in ("openvpn-udp", "openvpn-tcp"):
            return self._openvpn()
        if self.protocol == "ikev2":
            return self._identified(8, handshakes_ike.v2_request, handshakes_ike.is_v2_answer)
        if self.protocol == "ikev1":
            return self._identified(8, handshakes_ike.v1_request, handshakes_ike.is_v1_answer)
        if self.protocol == "l2tp":
            first = int.from_bytes(self._seed[:2], "big")

            def tunnel(i: int) -> int:
                return (first + i) % 65535 + 1

            return (
                lambda i: handshakes_ppp.l2tp_request(tunnel(i)),
                lambda data, i: handshakes_ppp.is_l2tp_answer(data, None if i is None else tunnel(i)),
            )
        if self.protocol == "pptp":
            request = handshakes_ppp.pptp_request()
            return lambda i: request, lambda data, i: handshakes_ppp.is_pptp_answer(data)
        return self._raw()

    def _wireguard(self) -> tuple[Callable[[int], bytes], Callable[[bytes, int | None], bool]]:
        if self.wireguard_server is None:
            raise ValueError("a WireGuard handshake needs wireguard_server, the server's public key")
        private = self.wireguard_private or X25519PrivateKey.generate().private_bytes_raw()
        initiator = Initiator(private, self.wireguard_server)
        first = int.from_bytes(self._seed[:4], "big")

        def index(i: int) -> int:
            return first + i & 0xFFFFFFFF

        return (
            lambda i: initiator.initiation(index(i)),
            lambda data, i: initiator.is_answer(data, None if i is None else index(i)),
        )

    def _openvpn(self) -> tuple[Callable[[int], bytes], Callable[[bytes, int | None], bool]]:
        if self.tls_crypt is None:
            build, check = handshakes_openvpn.plain_request, handshakes_openvpn.is_plain_answer
        else:
            wrapping = TlsCrypt(self.tls_crypt)
            build, check = wrapping.request, wrapping.is_answer
        if self.transport == "udp":
            return self._identified(8, build, check)

        def is_answer(data: bytes, session: bytes | None) -> bool:
            packet = handshakes_openvpn.unframed(data)
            if packet is None:
                return False
            if not check(packet, session):
                raise ValueError("not an OpenVPN server's reset")
            return True

        return self._identified(8, lambda session: handshakes_openvpn.framed(build(session)), is_answer)

    def _identified(
        self, size: int, build: Callable[[bytes], bytes], check: Callable[[bytes, bytes | None], bool]
    ) -> tuple[Callable[[int], bytes], Callable[[bytes, int | None], bool]]:
        """For protocols whose client chooses an identity of `size` bytes: the seed's, counted up."""
        first = int.from_bytes(self._seed[:size], "big")
        wrap = 1 << 8 * size

        def identity(i: int) -> bytes:
            return ((first + i) % wrap or 1).to_bytes(size, "big")

        return (
            lambda i: build(identity(i)),
            lambda data, i: check(data, None if i is None else identity(i)),
        )

    def _raw(self) -> tuple[Callable[[int], bytes], Callable[[bytes, int | None], bool]]:
        def is_answer(data: bytes, i: int | None) -> bool:
            found = handshakes_raw.number_of(self.protocol, data)
            return found is not None and found[1] and i in (None, found[0])

        return lambda i: handshakes_raw.sample(self.protocol, i), is_answer
