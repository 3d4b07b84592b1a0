"""Answers in sentences: why something was blocked (from an audit), and what would be decided (from a policy and a snapshot)."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from enforcer.allowlist import Allowlist, Entry
from enforcer.audit import read
from enforcer.cells import Index
from enforcer.conditions import CONDITIONS
from enforcer.decide import REASONS, Flow, decide
from enforcer.packet import SYN, Packet
from enforcer.policy import load_policy
from enforcer.protocols import AH, ESP, GRE, GRE_PPTP_TYPE, L2TP_IP, TCP, UDP
from enforcer.units import parse_duration

_MOST_ANSWERS = 20
_NUMBERS = {"tcp": TCP, "udp": UDP, "esp": ESP, "ah": AH, "gre": GRE, "l2tp": L2TP_IP}


def reasons() -> str:
    """Every word for a reason with its meaning."""
    width = max(map(len, REASONS))
    return "\n".join(f"{word:<{width}}  {meaning}" for word, meaning in REASONS.items())


def explain_audit(audit: Path, src: str | None, dst: str | None, at: str | None, around: str) -> str:
    """Why packets between these addresses were stopped, in either direction. Raises ValueError, OSError."""
    ends = {str(ip_address(each)) for each in (src, dst) if each}
    if not ends:
        raise ValueError("write --src ADDRESS, --dst ADDRESS or both")
    centre_ns, width_ns = (_unix_ns(at) if at else None), parse_duration(around)
    serial: int | None = None
    lasting: dict[str, str] = {}
    flows: dict[tuple[Any, ...], list[Any]] = defaultdict(lambda: [0, None, None, None])
    for line in read(audit):
        kind = line["kind"]
        if kind == "applied":
            serial = line["serial"]
        elif kind == "failure" and line["state"] == "begun":
            lasting[line["condition"]] = line["behaviour"]
        elif kind == "failure":
            lasting.pop(line["condition"], None)
        elif kind == "started":
            lasting.clear()
        if kind not in ("block", "would-block") or not ends <= {line["src"], line["dst"]}:
            continue
        if centre_ns is not None and abs(line["realtime_ns"] - centre_ns) > width_ns:
            continue
        key = (
            kind,
            line["reason"],
            line["protocol"],
            line["transport"],
            line["src"],
            line["dst"],
            _service_port(line),
            line["registration"],
            line["registration_state"],
        )
        flow = flows[key]
        flow[0] += line["count"]
        flow[1] = flow[1] or line["time"]
        flow[2] = line["time"]
        flow[3] = (serial, dict(lasting))
    if not flows:
        when = f" within {around} of {at}" if at else ""
        return (
            f"This enforcer's audit has no block of {' and '.join(sorted(ends))}{when}. "
            "If packets were lost then, it was not this enforcer that stopped them."
        )
    answers = [_sentence(key, *flow) for key, flow in flows.items()]
    more = [f"… and {len(answers) - _MOST_ANSWERS} more"] if len(answers) > _MOST_ANSWERS else []
    return "\n\n".join([*answers[:_MOST_ANSWERS], *more])


def explain_packet(text: str, policy_file: Path, snapshot_file: Path | None) -> str:
    """What would be decided about the first packet of a flow. Raises FileError, ValueError, OSError."""
    policy = load_policy(policy_file)
    entries = _entries(snapshot_file) if snapshot_file else {}
    packet = _packet(text)
    verdict = decide(packet, Flow(), Allowlist(0, entries), policy, time.time_ns())
    lines = [f"{text}: {verdict.action} ({verdict.reason}: {REASONS[verdict.reason]})."]
    if verdict.protocol:
        lines.append(f"It is taken for {verdict.protocol}, under policy {policy.name!r} ({policy.mode}).")
    else:
        lines.append(
            "Its addresses and ports do not show a VPN; a first message of a VPN protocol inside it might."
            if "first-packets" in policy.recognise_by
            else "Its addresses and ports do not show a VPN."
        )
    if verdict.registration is not None:
        entry = entries[verdict.registration]
        lines.append(f"Registration {entry.registration} of {entry.registrant} covers it.")
    elif verdict.reason == "unregistered":
        lines += _near_misses(packet, entries)
    return "\n".join(lines)


def _sentence(key: tuple[Any, ...], count: int, first: str, last: str, state: Any) -> str:
    kind, reason, protocol, transport, src, dst, port, registration, registration_state = key
    serial, lasting = state
    what = f"{protocol or 'VPN'} packet{'s' if count != 1 else ''} ({transport}{f', port {port}' if port else ''})"
    did = "blocked" if kind == "block" else "would have been blocked (the policy only observes)"
    when = first if first == last else f"from {first} to {last}"
    lines = [f"{count} {what} from {src} to {dst} {'were' if count != 1 else 'was'} {did}, {when}."]
    lines.append(f"Reason: {reason}: {REASONS.get(reason, 'a word this version does not know')}.")
    if registration is not None:
        lines.append(
            f"Registration {registration} covered this flow once; by then it was {registration_state}."
        )
    elif reason == "unregistered":
        lines.append("No registration known to this enforcer, active or ended, covers these two ends.")
    if serial is not None:
        lines.append(f"The allowlist in force was that of serial {serial}.")
    for condition, behaviour in lasting.items():
        lines.append(
            f"At that time: {condition} ({CONDITIONS.get(condition, '')}); the policy says {behaviour}."
        )
    return " ".join(lines)


def _service_port(line: dict[str, Any]) -> int:
    """The port that tells a flow's service: the lower one, for clients take high ones."""
    ports = [port for port in (line["src_port"], line["dst_port"]) if port]
    return min(ports) if ports else 0


def _near_misses(packet: Packet, entries: dict[int, Entry]) -> list[str]:
    """Registrations of one of the two ends: what most people get wrong."""
    lines = []
    for match, what in (("subscriber", "the line"), ("endpoint", "the endpoint")):
        index = Index(match, entries.values())  # type: ignore[arg-type]
        for kind in ("wireguard", "openvpn-udp", "openvpn-tcp", "ikev2", "esp", "ah", "gre", "l2tp", "pptp"):
            entry = index.find(
                packet.version, kind, packet.src, packet.src_port, packet.dst, packet.dst_port, None
            )
            if entry is not None:
                protocols = ", ".join(entry.protocols) or "any protocol"
                lines.append(
                    f"Registration {entry.registration} of {entry.registrant} names {what}, for {protocols} to "
                    f"{', '.join(entry.endpoint_prefixes)} ports {list(entry.endpoint_ports) or 'any'} "
                    f"from {', '.join(entry.subscriber_prefixes)}."
                )
                break
    return lines


def _packet(text: str) -> Packet:
    words = text.split()
    if len(words) not in (3, 4) or words[2].lower() not in _NUMBERS:
        raise ValueError(
            f"{text!r} is not a packet; write 'SRC DST udp PORT', 'SRC DST tcp PORT' or 'SRC DST esp'"
        )
    src, dst = ip_address(words[0]), ip_address(words[1])
    if src.version != dst.version:
        raise ValueError(f"{src} and {dst} are not of the same family")
    number = _NUMBERS[words[2].lower()]
    if (number in (TCP, UDP)) != (len(words) == 4):
        raise ValueError(f"{text!r}: udp and tcp need a port, the others have none")
    payload = bytes([0, 1]) + GRE_PPTP_TYPE.to_bytes(2, "big") if number == GRE else b""
    port = int(words[3]) if len(words) == 4 else 0
    return Packet(
        src.version,
        int(src),
        int(dst),
        number,
        src_port=49152 if port else 0,  # the first of the dynamic ports (RFC 6335)
        dst_port=port,
        tcp_flags=SYN if number == TCP else 0,
        payload=payload,
    )


def _entries(path: Path) -> dict[int, Entry]:
    data = json.loads(path.read_text("utf-8"))
    if "body" in data:
        data = json.loads(data["body"])
    if "entries" not in data:
        raise ValueError(f"{path}: not a snapshot; it has no entries")
    entries = [Entry.from_json(entry) for entry in data["entries"]]
    return {entry.registration: entry for entry in entries}


def _unix_ns(text: str) -> int:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise ValueError(f"{text!r} is not a time; write 2024-11-10T16:00:00Z") from error
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return int(moment.timestamp() * 1_000_000_000)
