"""What must hold for any bytes: each target takes them, and raises only when the program is wrong.

The normal tests try them with hypothesis (tests/test_enforcer_fuzz.py), the long runs with atheris (tests/fuzz/run.py).
"""

from __future__ import annotations

import contextlib
import functools
import io
from collections.abc import Callable
from dataclasses import replace
from importlib.resources import files
from ipaddress import ip_address

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from enforcer.allowlist import Allowlist, Entry
from enforcer.capture import NotACapture, frames
from enforcer.cells import Index
from enforcer.decide import CLEAR, EXEMPT, REASONS, REVOKED, UNJUDGED, Flow, Verdict, decide
from enforcer.link_layer import LINK_TYPES, without_link_layer
from enforcer.packet import parse
from enforcer.policy import Exemption, NamedEndpoint, Policy, parse_policy
from enforcer.registry.feed import FeedError, SignedDelta, Snapshot, delta_body, sign, snapshot_body, verify
from enforcer.registry.roll import KeyRing
from enforcer.yamlfile import FileError

NOW_NS = 1_700_000_000_000_000_000
_MARKS = (UNJUDGED, 1, 2, 3, 7, CLEAR, EXEMPT, *(1 << 31 | number for number in range(2, 6)), REVOKED)
_ENDED = (None, NOW_NS - 1, NOW_NS - 10**12)
_FALLBACKS = ("keep", "allow", "block")
_LINK_TYPES = sorted(LINK_TYPES)
_ENTRIES = (
    Entry(1, "a", ("10.0.0.0/8", "fd00::/16"), ("0.0.0.0/0", "::/0"), (51820, 1194), ("wireguard", "openvpn-udp")),
    Entry(2, "b", ("0.0.0.0/0", "::/0"), ("198.51.100.0/24", "2001:db8::/32"), valid_until_ns=NOW_NS + 1),
    Entry(3, "c", ("0.0.0.0/1", "8000::/1"), ("128.0.0.0/1", "::/1"), (), ("ikev2", "pptp", "l2tp")),
)  # fmt: skip


def packet(data: bytes) -> None:
    """parse() never raises; what it says is within what IP can say, and nothing is made up."""
    found = parse(data)
    assert found.version in (0, 4, 6)
    width = {0: 0, 4: 32, 6: 128}[found.version]
    assert 0 <= found.src < 1 << width and 0 <= found.dst < 1 << width
    assert 0 <= found.src_port <= 65535 and 0 <= found.dst_port <= 65535
    assert found.protocol is None or 0 <= found.protocol <= 255
    assert 0 <= found.udp_length <= 65527 and 0 <= found.tcp_flags <= 255
    assert found.payload in data and len(found.payload) <= found.length <= len(data)
    if found.version:
        assert int(ip_address(found.src_text)) == found.src and int(ip_address(found.dst_text)) == found.dst
    else:
        assert (found.src_text, found.protocol, found.payload) == ("", None, b"")
    assert parse(data) == found


def capture(data: bytes) -> None:
    """Whatever a file holds, it is read to its end or refused as NotACapture; no frame is larger than the file."""
    if data[:1] == b"L":  # the link layer by itself
        inner = without_link_layer(_LINK_TYPES[data[1] % len(_LINK_TYPES)] if len(data) > 1 else 1, data[2:])
        assert inner in data
        return
    try:
        for frame in frames(io.BytesIO(data)):
            assert frame.time_ns >= 0 and len(frame.data) <= len(data)
            parse(frame.data)
    except NotACapture:
        pass


def decision(data: bytes) -> None:
    """Any packet in any state of its flow has a verdict; entries one by one and the index agree about it."""
    if len(data) < 4:
        data = data.ljust(4, b"\0")
    policy, allowlist, index = _judges()[data[0] % len(_judges())]
    flow = Flow(_MARKS[data[1] % len(_MARKS)], _ENDED[data[2] % len(_ENDED)])
    fallback = _FALLBACKS[data[3] % len(_FALLBACKS)]
    found = decide(parse(data[4:]), flow, allowlist, policy, NOW_NS, fallback)
    assert isinstance(found, Verdict)
    assert found == decide(parse(data[4:]), flow, index, policy, NOW_NS, fallback)
    assert found.reason in REASONS and 0 <= found.mark < 1 << 32
    assert found.action in ("pass", "drop", "reject", "police", "observe")
    if policy.mode == "observe":
        assert found.passes
    if found.reason in ("unregistered", "revoked", "fail-closed"):
        assert found.action != "pass" and found.mark not in (CLEAR, EXEMPT)
    else:
        assert found.action == "pass"
    if found.reason == "fail-closed":
        assert fallback == "block"


def policy(data: bytes) -> None:
    """A text is a policy or has problems with places; a policy that was read is the same when written and read again."""
    try:
        found = parse_policy(data.decode("utf-8", "replace"), "fuzzed")
    except FileError as error:
        assert error.problems
        assert all(each.line >= 1 and each.column >= 1 and each.what for each in error.problems)
        return
    assert Policy.from_json(found.to_json()) == found
    decide(parse(b"E" + data[:60]), Flow(), Allowlist(0), found, NOW_NS)


def feed(data: bytes) -> None:
    """A message that is not the registry's is refused as FeedError; a signed one means the same when it is sent on."""
    key = _key()
    if data[:1] == b"S":  # signed well, whatever it says
        data = sign(data[1:].decode("utf-8", "replace"), key).encode()
    with contextlib.suppress(FeedError):
        KeyRing(key.public_key(), [data.decode("utf-8", "replace")])
    try:
        found = verify(data, key.public_key(), allow_empty=True)
    except FeedError as error:
        assert str(error) and error.word
        return
    if isinstance(found, Snapshot):
        body = snapshot_body(found.allowlist, found.issued_ns, found.mark)
    elif isinstance(found, SignedDelta) and (found.mark or not found.from_mark):
        body = delta_body(found.delta, found.issued_ns, found.from_mark, found.mark)
    else:
        return
    again = verify(sign(body, key), key.public_key(), allow_empty=True)
    assert again == found


TARGETS: dict[str, Callable[[bytes], None]] = {
    "packet": packet,
    "decision": decision,
    "capture": capture,
    "feed": feed,
    "policy": policy,
}


@functools.cache
def _key() -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(b"\1" * 32)


@functools.cache
def _judges() -> list[tuple[Policy, Allowlist, Index]]:
    strict = parse_policy((files("enforcer") / "policies" / "registered-pairs.policy.yaml").read_text())
    epdg = Exemption("epdg", "", ("ikev2", "esp"), ("198.51.100.64/26", "2001:db8::/33"), (500,), ())
    named = NamedEndpoint("openconnect", ("198.51.100.8/29", "::/0"), (443,))
    policies = (
        strict,
        replace(strict, match="subscriber", action="reject", live_flows="let-finish", let_finish_ns=10**9),
        replace(strict, match="endpoint", action="police", police_bps=64_000, exempt=(epdg,)),
        replace(strict, mode="observe", recognise_by=("ports",)),
        replace(strict, governs=(*strict.governs, "openconnect"), named_endpoints=(named,), recognise_by=("first-packets",)),
    )  # fmt: skip
    allowlist = Allowlist(1, {entry.registration: entry for entry in _ENTRIES})
    return [(each, allowlist, Index(each.match, _ENTRIES)) for each in policies]
