"""A difference as somebody reads it who must decide about a roll-out: sentences first, then the changes in lines."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from heapq import nsmallest
from itertools import islice

from enforcer.difference.as_json import moment_text
from enforcer.difference.change import EACH, Change, Outcome, Ports, Traffic
from enforcer.difference.changes import Difference
from enforcer.difference.cover import NOT_VPN, Label
from enforcer.difference.prefixes import WHOLE, WIDTHS, Prefix, text
from enforcer.difference.sides import DOCUMENTED, LOOKS, Side
from enforcer.difference.source import Listed
from enforcer.difference.summary import Moment, Registrant, Summary, is_milder, kind_of

_FEW_NAMES, _FEW_PREFIXES, _FEW_NETWORKS = 5, 2, 3
_Wide = tuple[int, tuple[Prefix, ...], tuple[Prefix, ...]]
_TRANSPORT_LOOKS = {each: [look for look, its in LOOKS.items() if its == each] for each in ("udp", "tcp")}
_PORTS_OF: dict[str | None, set[int]] = {each: set(ports) for each, ports in DOCUMENTED.items()}
_SHOWN = {"other-udp": "other UDP", "other-tcp": "other TCP"}
_ORDER = {"lose": 0, "stop": 1, "gain": 2}


def told(
    difference: Difference,
    summary: Summary,
    moments: list[Moment],
    at_ns: int,
    lists: tuple[Listed, Listed],
    horizon: str,
    limit: int,
) -> str:
    """Everything for a terminal. limit: how many changes and moments are shown; 0 is all."""
    lines = [_heading(difference, lists, at_ns), ""]
    if not difference.changes:
        lines.append("No verdict changes: every subscriber, endpoint, protocol and port is judged as before.")
        if lists[0] is lists[1] and difference.old.policy is difference.new.policy:
            lines.append("OLD and NEW are one and the same file: give the one before and the one after.")
    lines += _people(summary)
    lines += _opened(summary, limit)
    if summary.stops and summary.is_stop_seen:
        before, after = summary.stops
        kinder = "milder" if is_milder(before, after) else "harder"
        lines.append(f"VPN traffic that nothing lets pass: {before} becomes {after} ({kinder}).")
    elif not summary.stops and difference.old.stop == "observe" and difference.changes:
        lines.append("The policy only observes: nobody is stopped, what is said to be lost is recorded.")
    lines += _ended(summary, difference, limit)
    if difference.changes:
        lines += ["", *_table(difference, limit)]
    if moments:
        lines += ["", *_upcoming(moments, horizon, limit)]
    return "\n".join(lines)


def _heading(difference: Difference, lists: tuple[Listed, Listed], at_ns: int) -> str:
    old, new = difference.old, difference.new
    parts = []
    if old.policy == new.policy:
        parts.append(f"policy {old.policy.name} (unchanged)")
    else:
        parts.append(f"policy {old.policy.name} → {new.policy.name}")
    if lists[0] is lists[1]:
        parts.append(f"{_listed(lists[0], old)} (unchanged)")
    else:
        parts.append(f"{_listed(lists[0], old)} → {_listed(lists[1], new)}")
    return f"{'; '.join(parts)}; as of {moment_text(at_ns)}"


def _listed(listed: Listed, side: Side) -> str:
    name = f"serial {listed.serial}" if listed.serial is not None else listed.file
    return f"{name} ({len(side.entries):,} of {len(listed.entries):,} entries count)"


def _people(summary: Summary) -> Iterator[str]:
    for people, one, many in (
        (summary.lose_all, "loses all access", "lose all access"),
        (summary.lose_some, "loses part of its access", "lose part of their access"),
        (summary.both, "loses some access and gains other", "lose some access and gain other"),
        (summary.gain_first, "gains access", "gain access"),
        (summary.gain_more, "gains more access than it has", "gain more access than they have"),
    ):
        if people:
            noun = "registrant" if len(people) == 1 else "registrants"
            groups = _groups(people) if len(people) > 1 else ""
            yield f"{len(people):,} {noun} {one if len(people) == 1 else many}{groups}: {_names(people)}."


def _names(people: list[Registrant]) -> str:
    shown = []
    for each in people[:_FEW_NAMES]:
        numbers = ", ".join(f"#{number}" for number in each.registrations[:_FEW_PREFIXES])
        more = len(each.registrations) - _FEW_PREFIXES
        category = f"{each.category}, " if each.category else ""
        shown.append(f"{each.name} ({category}{numbers}{f' and {more} more' if more > 0 else ''})")
    more = len(people) - _FEW_NAMES
    return ", ".join(shown) + (f" and {more:,} more" if more > 0 else "")


def _groups(people: list[Registrant]) -> str:
    counts: dict[str, int] = {}
    for each in people:
        counts[each.category or "no category"] = counts.get(each.category or "no category", 0) + 1
    listed = ", ".join(
        f"{count:,} {word}" for word, count in sorted(counts.items(), key=lambda item: -item[1])
    )
    return f" ({listed})"


def _opened(summary: Summary, limit: int) -> Iterator[str]:
    for labels, becomes in (
        (summary.opened, "becomes open to everybody"),
        (summary.closed, "is no longer open to everybody"),
    ):
        for label, changes in labels.items():
            for what, looks in _places(changes).items():
                yield f"{what} {becomes} ({_label(label)}): {', '.join(looks)}."
    yield from _wide(summary, limit)


def _wide(summary: Summary, limit: int) -> Iterator[str]:
    """Whole networks, each once whatever its ports; many that are alike in one sentence."""
    alike: dict[tuple[int, bool, bool], dict[_Wide, list[Change]]] = {}
    for change in summary.wide:
        shape = (change.version, change.subscribers == (WHOLE,), change.endpoints == (WHOLE,))
        some = alike.setdefault(shape, {})
        for each in _networks(change):
            some.setdefault(each, []).append(change)
    for (version, _, _), some in alike.items():
        ways = {
            each: f"{_prefixes(each[1], version)} → {_prefixes(each[2], version)}"
            for each in nsmallest(
                len(some) if not limit or len(some) <= _FEW_NETWORKS else _FEW_NETWORKS, some
            )
        }
        if len(ways) == len(some):
            for each, way in ways.items():
                traffic = traffic_text(_together([some[each]]))
                yield f"A whole network passes by one registration now: {way}, {_label(each[0])}: {traffic}."
            continue
        shown = ", ".join(f"{way} ({_label(each[0])})" for each, way in ways.items())
        yield (
            f"{len(some):,} whole networks pass by one registration each now: {shown} and {len(some) - len(ways):,} more "
            f"(--limit 0 shows all), together: {traffic_text(_together(some.values()))}."
        )


def _networks(change: Change) -> Iterator[_Wide]:
    """Each registration with its own subscribers and endpoints."""
    if isinstance(change.after.by, int):
        yield change.after.by, change.subscribers, change.endpoints
    elif change.after.by == EACH:
        many = len(change.each)
        ones, others = (
            [(each,) for each in some] if len(some) > 1 else [some] * many
            for some in (change.subscribers, change.endpoints)
        )
        yield from zip(change.each, ones, others, strict=True)


def _together(changes: Iterable[list[Change]]) -> tuple[Traffic, ...]:
    """The traffic of all of them. Many share one tuple of it, which is looked at once."""
    found: dict[tuple[str, str], Ports] = {}
    for traffic in {id(each.traffic): each.traffic for some in changes for each in some}.values():
        for look, ports, opened_by in traffic:
            key = (look, opened_by)
            found[key] = found[key].either(ports) if key in found else ports
    return tuple([Traffic(look, ports, opened_by) for (look, opened_by), ports in found.items()])


def _places(changes: Iterable[Change]) -> dict[str, list[str]]:
    """Where, and for what traffic, whoever opens it."""
    found: dict[str, dict[str, Ports]] = {}
    for change in changes:
        if change.subscribers == change.endpoints == (WHOLE,):
            where = f"All of IPv{change.version}"
        elif change.subscribers == (WHOLE,):
            where = _prefixes(change.endpoints, change.version)
        else:
            where = _sides(change)
        words = found.setdefault(where + (" (with exceptions, below)" if change.exceptions else ""), {})
        for look, ports, _ in change.traffic:
            words[look] = words[look].either(ports) if look in words else ports
    return {where: list(_looks(ports)) for where, ports in found.items()}


def _ended(summary: Summary, difference: Difference, limit: int) -> Iterator[str]:
    ended = list(summary.without_effect.items())
    if not ended:
        return
    yield f"{len(ended):,} registration{'s' if len(ended) > 1 else ''} ended without effect on any verdict:"
    for number, labels in ended[: limit or None]:
        by = ", ".join(_label(each, difference.new) for each in sorted(labels, key=str)[:_FEW_PREFIXES])
        why = f"its traffic passes by {by}" if by else "nothing it named was judged by it"
        yield f"  #{number} {difference.old.entries[number].registrant}: {why}"
    if limit and len(ended) > limit:
        yield f"  … and {len(ended) - limit:,} more (--limit 0 shows all)"


def _table(difference: Difference, limit: int) -> Iterator[str]:
    stops = sorted((each for each in difference.changes if kind_of(each) == "stop"), key=_sorting)
    others = [each for each in difference.changes if kind_of(each) != "stop"]
    # By number they come in order, so no more than `limit` of any that change alike can be among the first.
    rest = sorted(
        (single for each in others for single in islice(each.singles(), limit or None)), key=_sorting
    )
    shown = [*_stop_rows(stops), *(_row(each, difference) for each in rest[: limit or None])]
    widths = [max(len(row[column]) for row in shown) for column in range(3)]
    for *cells, traffic, exceptions in shown:
        yield "  ".join([*(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)), traffic])
        if exceptions:
            yield " " * (widths[0] + 2) + "but not " + exceptions
    count = sum(len(each.each) or 1 for each in others)
    if limit and count > limit:
        yield f"… and {count - limit:,} more changes (--limit 0 or --json shows all)"


def _row(change: Change, difference: Difference) -> tuple[str, str, str, str, str]:
    less = _exceptions(change) if change.exceptions else ""
    return _verdicts(change), _who(change, difference), _sides(change), traffic_text(change.traffic), less


def _stop_rows(stops: list[Change]) -> Iterator[tuple[str, str, str, str, str]]:
    """One for each family: the exceptions of each protocol are what passes, before or after, and are many."""
    for version in sorted({each.version for each in stops}):
        ports: dict[str, Ports] = {}
        some = [each for each in stops if each.version == version]
        for change in some:
            for look, its, _ in change.traffic:
                ports[look] = ports[look].either(its) if look in ports else its
        whole = f"any IPv{version} → any IPv{version}"
        less = "what passes, before or after" if any(each.exceptions for each in some) else ""
        yield _verdicts(some[0]), "unregistered", whole, ", ".join(_looks(ports)), less


def _sorting(change: Change) -> tuple[object, ...]:
    label = change.before.by if change.before.by is not None else change.after.by
    number = label if isinstance(label, int) else 0
    return _ORDER[kind_of(change)], number, str(label), change.version, change.subscribers, change.endpoints


def _verdicts(change: Change) -> str:
    return f"{change.before.verdict} → {change.after.verdict}"


def _who(change: Change, difference: Difference) -> str:
    if change.before.by is not None:
        return _by(change.before, difference.old)
    return _by(change.after, difference.new) if change.after.by is not None else "unregistered"


def _by(outcome: Outcome, side: Side) -> str:
    return _label(outcome.by, side) if outcome.by is not None else ""


def _label(label: Label, side: Side | None = None) -> str:
    if label == NOT_VPN:
        return "not taken for VPN"
    if isinstance(label, int):
        if side is None or label not in side.entries:
            return f"registration {label}"
        entry = side.entries[label]
        return f"#{label} {entry.registrant}" + (f" ({entry.category})" if entry.category else "")
    return f"exemption {label.partition(':')[2]}"


def _sides(change: Change) -> str:
    return f"{_prefixes(change.subscribers, change.version)} → {_prefixes(change.endpoints, change.version)}"


def _exceptions(change: Change) -> str:
    shown = [
        f"{_prefixes(each.subscribers, change.version)} → {_prefixes(each.endpoints, change.version)}"
        for each in change.exceptions[:_FEW_PREFIXES]
    ]
    more = len(change.exceptions) - _FEW_PREFIXES
    return ", ".join(shown) + (f" (+{more:,})" if more > 0 else "")


def _prefixes(prefixes: tuple[Prefix, ...], version: int) -> str:
    shown = ", ".join(_prefix(each, version) for each in prefixes[:_FEW_PREFIXES])
    more = len(prefixes) - _FEW_PREFIXES
    return shown + (f" (+{more:,})" if more > 0 else "")


def _prefix(prefix: Prefix, version: int) -> str:
    if prefix == WHOLE:
        return f"any IPv{version}"
    written = text(prefix, version)
    return written.rpartition("/")[0] if prefix[1] == WIDTHS[version] else written


def traffic_text(traffic: tuple[Traffic, ...]) -> str:
    """The traffic in few words. What a documented port makes of every flow there is said once, by the protocol's name."""
    parts = []
    for side in ("either", "subscriber", "endpoint"):
        ports = {look: its for look, its, opened_by in traffic if opened_by == side}
        if ports:
            words = ", ".join(_looks(ports))
            parts.append(f"inbound {words}" if side == "endpoint" else words)
    return "; ".join(parts)


def _looks(ports: dict[str, Ports]) -> Iterator[str]:
    said: dict[str, set[int]] = {}
    for transport, looks in _TRANSPORT_LOOKS.items():
        for port, name in DOCUMENTED[transport].items():
            if all(look in ports and _holds(ports[look], port) for look in looks):
                said.setdefault(name, set()).add(port)
    for look, its in ports.items():
        transport = LOOKS[look]
        if transport is None:
            yield look
            continue
        if its.is_all_but:
            # A documented port is its own protocol's: that needs no "all but" here.
            others = {port for port in _PORTS_OF[transport] if DOCUMENTED[transport][port] != look}
        else:
            others = {
                port for name, some in said.items() if name != look for port in some & _PORTS_OF[transport]
            }
        left = Ports(its.is_all_but, its.ports - others)
        if left.is_none:
            continue
        yield f"{_SHOWN.get(look, look)} {_ports(left)}"


def _holds(ports: Ports, port: int) -> bool:
    return (port in ports.ports) != ports.is_all_but


def _ports(ports: Ports) -> str:
    listed = ", ".join(map(str, sorted(ports.ports)))
    if ports.is_all_but:
        return f"any port but {listed}" if listed else "any port"
    return listed


def _upcoming(moments: list[Moment], horizon: str, limit: int) -> Iterator[str]:
    yield f"Within {horizon}, by validity alone ({len(moments):,}):"
    for each in moments[: limit or None]:
        category = f" ({each.entry.category})" if each.entry.category else ""
        yield f"  {moment_text(each.at_ns)}  #{each.entry.registration} {each.entry.registrant}{category} {each.what}"
    if limit and len(moments) > limit:
        yield f"  … and {len(moments) - limit:,} more"
