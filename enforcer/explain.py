"""Answers in sentences: why something was stopped (from an audit), together with what is decided (explain_flow)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from enforcer.audit import read
from enforcer.conditions import CONDITIONS
from enforcer.decide import REASONS
from enforcer.explain_flow import Answer, answer
from enforcer.explain_near import entry_words
from enforcer.known import Known
from enforcer.privacy import is_word, names
from enforcer.protocols import TCP_PORTS, UDP_PORTS
from enforcer.question import PROTOCOLS, questions
from enforcer.units import parse_duration

_MOST_ANSWERS = 20


@dataclass(slots=True)
class Stopped:
    """Stopped packets of one kind between two ends: the line of the first, how many, and what lasted at the last."""

    line: dict[str, Any]
    count: int
    first: str
    last: str
    serial: int | None
    lasting: dict[str, str]
    covering: str = ""
    """The registration that covers it in the list, when one does although it was stopped as unregistered."""

    def to_json(self) -> dict[str, Any]:
        keys = ("kind", "reason", "protocol", "transport", "src", "dst", "registration", "registration_state")
        return {key: self.line.get(key) for key in keys} | {
            "port": _service_port(self.line) or None,
            "count": self.count,
            "first": self.first,
            "last": self.last,
            "serial": self.serial,
            "conditions": self.lasting,
            "covering": self.covering or None,
        }


@dataclass(frozen=True, slots=True)
class Stops:
    """What an audit says about two ends (or one). asked: how people named them; when: "" or " within 30s of …"; next_step: what to type."""

    found: tuple[Stopped, ...]
    asked: str
    when: str
    next_step: str = ""

    def text(self) -> str:
        if not self.found:
            return (
                f"This enforcer's audit has no block of {self.asked}{self.when}. "
                "If packets were lost then, it was not this enforcer that stopped them."
                + (
                    f"\nTo see what is decided and what would let it pass: {self.next_step}"
                    if self.next_step
                    else ""
                )
            )
        more = len(self.found) - _MOST_ANSWERS
        texts = [_sentence(each) for each in self.found[:_MOST_ANSWERS]]
        return "\n\n".join([*texts, f"… and {more} more"] if more > 0 else texts)


@dataclass(frozen=True, slots=True)
class Explanation:
    """All that is said to one question. at: the time that was asked about, as written."""

    answers: tuple[Answer, ...]
    known: Known | None
    stops: Stops | None
    at: str | None = None

    def to_json(self) -> dict[str, Any]:
        known = self.known
        return {
            "policy": known.policy.name if known else None,
            "mode": known.policy.mode if known else None,
            "serial": known.allowlist.serial if known else None,
            "list": known.source if known else None,
            "at": self.at,
            "list_is_of_then": known.is_of_then if known else None,
            "remarks": list(known.remarks) if known else [],
            "is_running": known.is_running if known else None,
            "conditions": known.lasting if known else {},
            "answers": [each.to_json() for each in self.answers],
            "stopped": [each.to_json() for each in self.stops.found] if self.stops else None,
        }

    def text(self) -> str:
        parts = list(self._decided()) if self.known else []
        if self.stops is not None:
            parts.append(self.stops.text())
        return "\n\n".join(parts)

    def _decided(self) -> Iterator[str]:
        known = self.known
        assert known is not None
        when = f" at {self.at}" if self.at else ""
        state = ""
        if known.is_running:
            state = "; the enforcer runs" + (
                f", and says: {', '.join(known.lasting)}" if known.lasting else ""
            )
        first = self.answers[0].asked.packet
        yield (
            f"From {first.src_text} to {first.dst_text}{when}, under policy {known.policy.name!r} ({known.policy.mode}), "
            f"serial {known.allowlist.serial} ({known.source}{state}):"
            + "".join(f"\n{each}" for each in known.remarks)
        )
        groups: dict[tuple[Any, ...], list[Answer]] = {}
        for each in self.answers:
            groups.setdefault((each.verdict.action, each.rule, each.why), []).append(each)
        for (action, rule, why), members in groups.items():
            titles = ", ".join(each.asked.title for each in members)
            lines = [
                f"{titles}: {'passes' if action == 'pass' else action} ({members[0].verdict.reason}), by {rule!r}: {why}."
            ]
            lines += [f"  note: {note}." for note in members[0].notes]
            if len({each.changes for each in members}) > 1:
                lines.append(
                    "  What would have to change differs; ask about one: --proto " + members[0].asked.name
                )
            elif members[0].changes:
                lines.append("  For it to pass, one of these:")
                lines += [f"  - {change}" for change in members[0].changes]
            yield "\n".join(lines)


def reasons() -> str:
    """Every word for a reason with its meaning."""
    width = max(map(len, REASONS))
    return "\n".join(f"{word:<{width}}  {meaning}" for word, meaning in REASONS.items())


def stopped(
    audit: Path,
    src: str | None,
    dst: str | None,
    at_ns: int | None,
    around: str,
    key: bytes | None = None,
    known: Known | None = None,
) -> Stops:
    """What was stopped between these ends, in either direction; each is an address, or its word in an audit with keyed words.

    key: of such an audit. known: the list to compare with. Raises ValueError, OSError.
    """
    ends = [each if is_word(each) else _address(each) for each in (src, dst) if each]
    if not ends:
        raise ValueError("write SRC and DST, or --src ADDRESS, --dst ADDRESS or both")
    width_ns = parse_duration(around)
    serial: int | None = None
    lasting: dict[str, str] = {}
    found: dict[tuple[Any, ...], Stopped] = {}
    has_words = False
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
        if kind not in ("block", "would-block"):
            continue
        has_words = has_words or is_word(line["src"])
        if not _is_between(line, ends, key) or (
            at_ns is not None and abs(line["realtime_ns"] - at_ns) > width_ns
        ):
            continue
        group = (*(line[word] for word in _GROUPED), _service_port(line))
        each = found.setdefault(group, Stopped(line, 0, line["time"], line["time"], serial, {}))
        each.count += line["count"]
        each.last, each.serial, each.lasting = line["time"], serial, dict(lasting)
    if has_words and not found and key is None and not any(map(is_word, ends)):
        raise ValueError(
            f"{audit} has keyed words for addresses; write --audit-key FILE (the enforcer's audit-key), or a word of it such as h:0123456789abcdef"
        )
    for each in found.values():
        each.covering = _covering(each, src, dst, known)
    when = (
        f" within {around} of {datetime.fromtimestamp(at_ns / 1e9, UTC):%Y-%m-%dT%H:%M:%SZ}"
        if at_ns is not None
        else ""
    )
    shown = [name if end is None or is_word(end) else end for name, end in (("SRC", src), ("DST", dst))]
    next_step = "" if known else f"enforcer explain {' '.join(shown)} --config FILE"
    return Stops(tuple(found.values()), " and ".join(sorted(ends)), when, next_step)


def unix_ns(text: str) -> int:
    """A time as people write it. Raises ValueError."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise ValueError(f"{text!r} is not a time; write 2024-11-10T16:00:00Z") from error
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return int(moment.timestamp() * 1_000_000_000)


_GROUPED = ("kind", "reason", "protocol", "transport", "src", "dst", "registration", "registration_state")


def _address(text: str) -> str:
    try:
        return str(ip_address(text))
    except ValueError:
        raise ValueError(
            f"{text!r} is not an address; write one such as 203.0.113.7 or 2001:db8::7"
        ) from None


def _is_between(line: dict[str, Any], ends: list[str], key: bytes | None) -> bool:
    if len(ends) == 1:
        return names(line["src"], ends[0], key) or names(line["dst"], ends[0], key)
    return any(
        names(line["src"], one, key) and names(line["dst"], other, key)
        for one, other in (ends, reversed(ends))
    )


def _covering(found: Stopped, src: str | None, dst: str | None, known: Known | None) -> str:
    """The registration that covers what was stopped as unregistered, by the list as it is now."""
    line = found.line
    if line["reason"] != "unregistered" or known is None:
        return ""
    ends = [end for end in (src, dst) if end and not is_word(end)]
    if len(ends) < 2:
        ends = [line["src"], line["dst"]]
    protocol = line["protocol"] if line["protocol"] in PROTOCOLS else line["transport"]
    port = _service_port(line) if line["transport"] in ("udp", "tcp") else None
    try:
        asked = questions(ends[0], ends[1], protocol, port, known.policy)
    except ValueError:  # ends that are networks or words
        return ""
    answers = [answer(each, known, line["realtime_ns"], "keep") for each in asked]
    return next((entry_words(each.entry) for each in answers if each.entry is not None), "")


def _sentence(found: Stopped) -> str:
    line, count = found.line, found.count
    port = _service_port(line)
    what = f"{line['protocol'] or 'VPN'} packet{'s' if count != 1 else ''} ({line['transport']}{f', port {port}' if port else ''})"
    did = "blocked" if line["kind"] == "block" else "would have been blocked (the policy only observes)"
    when = found.first if found.first == found.last else f"from {found.first} to {found.last}"
    lines = [
        f"{count} {what} from {line['src']} to {line['dst']} {'were' if count != 1 else 'was'} {did}, {when}."
    ]
    lines.append(
        f"Reason: {line['reason']}: {REASONS.get(line['reason'], 'a word this version does not know')}."
    )
    state = line["registration_state"]
    if line["registration"] is not None and state == "active":
        lines.append(
            f"But registration {line['registration']} covers it, and was active: the kernel's table differed from the list. That is a "
            "malfunction, not the policy; `enforcer reload` loads the list again."
        )
    elif line["registration"] is not None:
        lines.append(f"Registration {line['registration']} covered this flow once; by then it was {state}.")
    elif found.covering:
        lines.append(
            f"The list covers it now, by {found.covering}: either that came later than this, or the kernel's table differed from "
            "the list (then `enforcer reload` loads it again)."
        )
    elif line["reason"] == "unregistered":
        lines.append("No registration that has ended covered these two ends, as far as this enforcer knew.")
    if found.serial is not None:
        lines.append(f"The allowlist in force was that of serial {found.serial}.")
    for condition, behaviour in found.lasting.items():
        lines.append(
            f"At that time: {condition} ({CONDITIONS.get(condition, '')}); the policy says {behaviour}."
        )
    if "/" in line["src"]:
        lines.append("The audit keeps networks, not addresses: others of these networks may be meant.")
    return " ".join(lines)


def _service_port(line: dict[str, Any]) -> int:
    """The port that tells a flow's service: a documented one, else the lower one, for clients take high ones."""
    ports = [port for port in (line["dst_port"], line["src_port"]) if port]
    documented = UDP_PORTS if line["transport"] == "udp" else TCP_PORTS
    return next((port for port in ports if port in documented), min(ports, default=0))
