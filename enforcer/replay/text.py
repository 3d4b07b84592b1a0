"""A replay's report for the terminal."""

from __future__ import annotations

from typing import Any

from enforcer.decide import REASONS
from enforcer.replay.whose import MISSES

_DID = {
    "drop": "would have been dropped",
    "reject": "would have been rejected",
    "police": "would have been slowed down to the policy's rate",
    "observe": "would have been recorded, and passed: the policy only observes",
}
_STOPS = ("unregistered", "revoked")


def render(data: dict[str, Any]) -> str:
    """The report (report.py) as text: what it was, what would have happened, whose it was, and what the figures cannot say."""
    source = data["source"]
    parts = ["\n".join(_head(data)), _verdict(data), _reasons(data)]
    if data["stopped"]["flows"]:
        parts += [_protocols(data), _people(data), _pairs(data), _ends(data)]
    if "against" in data:
        parts.append(_against(data))
    notes = [*_limits(data), *(f"- {note}." for note in source["notes"])]
    if notes:
        parts.append("What these figures cannot say, and how they were got\n" + "\n".join(notes))
    parts += _damage(source)
    return "\n\n".join(part for part in parts if part)


def _head(data: dict[str, Any]) -> list[str]:
    source, allowlist = data["source"], data["allowlist"]
    span = f", {_short(source['first'])} to {_short(source['last'])}" if source["first"] else ""
    judged = f"all judged as of {data['at']}" if data["at"] else "each flow judged at its own time"
    return [
        *_broken(source),
        f"{source['file']}: {source['format']}, {source['flows']:,} flows, {source['packets']:,} packets, {_octets(source['bytes'])}{span}",
        f"Policy {_policy(data)}",
        f"Allowlist serial {allowlist['serial']}, {allowlist['entries']:,} registrations ({allowlist['file']}); {judged}",
    ]


def _policy(data: dict[str, Any]) -> str:
    policy = data["policy"]
    return f"{policy['name']} ({policy['file']}): {policy['mode']}, {policy['action']}, by {policy['match']}"


def _verdict(data: dict[str, Any]) -> str:
    source, stopped = data["source"], data["stopped"]
    if not source["flows"]:
        return "No flow was read."
    vpn = data["vpn"]["flows"]
    if not stopped["flows"]:
        return f"None of {source['flows']:,} flows would have been stopped; {vpn:,} of them are VPN."
    return (
        f"{stopped['flows']:,} of {source['flows']:,} flows {_DID[stopped['by']]}: {_share(stopped['flows'], source['flows'])} of all, "
        f"{_share(stopped['flows'], vpn)} of the {vpn:,} that are VPN; {stopped['packets']:,} packets, {_octets(stopped['bytes'])}."
    )


def _reasons(data: dict[str, Any]) -> str:
    rows = []
    for reason, sums in data["by_reason"].items():
        does = data["stopped"]["by"] if reason in _STOPS else "pass"
        rows.append([reason, does, *_sums(sums), REASONS[reason]])
    return _table(["verdict", "", "flows", "packets", "bytes", ""], rows, "llrrrl")


def _protocols(data: dict[str, Any]) -> str:
    rows = [[name, *_sums(sums)] for name, sums in data["stopped_by_protocol"].items()]
    return _table(["stopped, by protocol", "flows", "packets", "bytes"], rows, "lrrr")


def _people(data: dict[str, Any]) -> str:
    rows = []
    for person in data["registrants"]:
        numbers = ", ".join(map(str, person["registrations"][:4])) + (
            " …" if len(person["registrations"]) > 4 else ""
        )
        misses = ", ".join(f"{miss} {flows:,}" for miss, flows in person["misses"].items())
        name = person["registrant"] or "(nobody registered)"
        rows.append(
            [
                name,
                numbers or "-",
                f"{person['subscribers']:,}",
                f"{person['flows']:,}",
                _octets(person["bytes"]),
                misses,
            ]
        )
    used = [miss for miss in MISSES if any(miss in person["misses"] for person in data["registrants"])]
    more = data["registrants_in_all"] - sum(1 for person in data["registrants"] if person["registrant"])
    return "\n".join(
        [
            _table(
                [
                    "stopped, by registrant",
                    "registration",
                    "lines",
                    "flows",
                    "bytes",
                    "why no registration covers them",
                ],
                rows,
                "llrrrl",
            ),
            *([f"… and {more:,} registrants more"] if more > 0 else []),
            *(f"  {miss}: {MISSES[miss]}" for miss in used),
        ]
    )


def _pairs(data: dict[str, Any]) -> str:
    rows = []
    for pair in data["top"]["pairs"]:
        near = pair["nearest"]
        said = "none"
        if near:
            more = f" (and {near['other_registrants']} more)" if near["other_registrants"] else ""
            said = f"{near['registration']} of {near['registrant']}{more}: {near['why']}"
        rows.append(
            [
                pair["subscriber"],
                pair["endpoint"],
                pair["protocol"],
                f"{pair['flows']:,}",
                _octets(pair["bytes"]),
                said,
            ]
        )
    return _table(
        [
            "stopped, most flows first",
            "endpoint",
            "protocol",
            "flows",
            "bytes",
            "nearest registration",
        ],
        rows,
        "lllrrl",
    )


def _ends(data: dict[str, Any]) -> str:
    top, untold = data["top"], data["ends_untold"]
    note = (
        f"\n  Nothing tells which end is the subscriber's of {untold:,} stopped flows (no port or the same at both ends, neither registered): "
        "say --inside PREFIX."
        if untold
        else ""
    )
    lines = [[each["subscriber"], f"{each['endpoints']:,}", *_sums(each)] for each in top["subscribers"]]
    points = [
        [each["endpoint"], each["protocol"], f"{each['subscribers']:,}", *_sums(each)]
        for each in top["endpoints"]
    ]
    return "\n\n".join(
        [
            _table(
                [
                    f"subscribers ({top['subscribers_in_all']:,} stopped)",
                    "endpoints",
                    "flows",
                    "packets",
                    "bytes",
                ],
                lines,
                "lrrrr",
            )
            + note,
            _table(
                [
                    f"endpoints ({top['endpoints_in_all']:,})",
                    "protocol",
                    "subscribers",
                    "flows",
                    "packets",
                    "bytes",
                ],
                points,
                "llrrrr",
            ),
        ]
    )


def _against(data: dict[str, Any]) -> str:
    against = data["against"]
    before, after = data["stopped"], against["stopped"]
    name = against["policy"]["name"]
    head = (
        f"Against policy {_policy(against)}\nIt stops {after['flows']:,} flows, {_octets(after['bytes'])} "
        f"({_signed(after['flows'] - before['flows'])} flows)."
    )
    if not against["changes"]:
        return f"{head} No flow's verdict changes."
    rows = [[f"{change['from']} → {change['to']}", *_sums(change)] for change in against["changes"]]
    parts = [head, _table(["what changes", "flows", "packets", "bytes"], rows, "lrrr")]
    rows = [
        [
            person["registrant"] or "(nobody registered)",
            ", ".join(map(str, person["registrations"][:4])) or "-",
            f"{person['stopped_only_by_the_other']['flows']:,}",
            f"{person['passes_only_under_the_other']['flows']:,}",
        ]
        for person in against["registrants"]
    ]
    parts.append(
        _table(
            ["by registrant", "registration", f"stopped only by {name}", f"passes only under {name}"],
            rows,
            "llrr",
        )
    )
    return "\n\n".join(parts)


def _limits(data: dict[str, Any]) -> list[str]:
    found = []
    log = data.get("flow_log")
    if log:
        may = log["could_hold_a_first_message"]
        found.append(
            "- Judged by ports and protocol numbers: first-packet recognition needs packets. "
            + (
                f"{may['flows']:,} flows ({_octets(may['bytes'])}) pass by their ports and are UDP or TCP that could begin with a VPN's first message."
                if may["flows"]
                else "No flow that passes could begin with a VPN's first message."
            )
        )
        if log["gre"]["flows"]:
            found.append(
                f"- {log['gre']['flows']:,} GRE flows were taken for plain GRE and pass; whether GRE is PPTP's stands in its header. "
                f"{log['gre_unregistered_if_pptp']['flows']:,} of them would be stopped if they were."
            )
        if log["judged_as_answers"]:
            found.append(
                f"- {log['judged_as_answers']:,} flows come from a VPN's port and were judged as a server's answers (--direction either)."
            )
        found.append(
            f"- {log['checked_against_decide']:,} verdicts were checked against decide(), and all agree."
        )
    capture = data.get("capture")
    if capture:
        if capture["flows_forgotten"]:
            found.append(
                f"- {capture['flows_forgotten']:,} flows were let go while they lived, to keep memory bounded (--most-flows); "
                "what came later of them was judged as new flows."
            )
        if capture["fragments_without_their_first"]:
            found.append(
                f"- {capture['fragments_without_their_first']:,} fragments came without their first one and pass."
            )
        if capture["not_ip"]:
            found.append(f"- {capture['not_ip']:,} frames hold no IP packet and were left out.")
    if data["uncounted"]["pairs"]:
        found.append(
            f"- The lists of people and ends leave out {data['uncounted']['flows']:,} flows of the {data['uncounted']['pairs']:,} "
            "pairs with the fewest flows; the totals have them."
        )
    return found


def _broken(source: dict[str, Any]) -> list[str]:
    """What somebody must know before they read the figures."""
    found = []
    if source["interrupted"]:
        found.append(
            f"INTERRUPTED after {_share(source['read_ratio'], 1)} of the file: the figures are of what was read until then."
        )
    if count := source["damage_count"]:
        places = "1 place" if count == 1 else f"{count:,} places"
        found.append(
            f"DAMAGED: {places} in the file could not be read (which: at the end); the figures are of what could be read."
        )
    return found


def _damage(source: dict[str, Any]) -> list[str]:
    found = []
    if source["damage_count"]:
        lines = ["What could not be read"]
        for each in source["damage"]:
            place = f"byte {each['offset_bytes']:,}"
            if each["line"] is not None:
                place = f"line {each['line']:,} ({place})"
            lines.append(f"  {place}: {each['what']}")
        if source["damage_count"] > len(source["damage"]):
            lines.append(f"  … and {source['damage_count'] - len(source['damage']):,} more")
        found.append("\n".join(lines))
    return found


def _table(head: list[str], rows: list[list[str]], aligned: str) -> str:
    widths = [max(len(row[index]) for row in [head, *rows]) for index in range(len(head))]
    lines = []
    for row in [head, *rows]:
        cells = [
            cell.rjust(width) if side == "r" else cell.ljust(width)
            for cell, width, side in zip(row, widths, aligned, strict=True)
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def _sums(sums: dict[str, int]) -> list[str]:
    return [f"{sums['flows']:,}", f"{sums['packets']:,}", _octets(sums["bytes"])]


def _octets(count: int) -> str:
    """Decimal units, as links are sold."""
    for unit, size in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} B"


def _share(part: float, whole: float) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "0 %"


def _signed(count: int) -> str:
    return f"{count:+,}"


def _short(moment: str) -> str:
    """A moment without its fraction and 'T', for people."""
    return moment.split(".")[0].replace("T", " ") + (" UTC" if "T" in moment else "")
