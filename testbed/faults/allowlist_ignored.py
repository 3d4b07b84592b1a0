"""A "technical glitch": the gateway stops honouring the allowlist while its agent believes that all is well.

The kernel's lookups of registrations are stepped over by one rule at the head of each, and the gateway forgets which
connections were registered, so that live tunnels are judged anew. Sets and maps stay as the agent knows them: its updates go on working,
its counters and its serial look right, and each block it reports says "unregistered".
"""

from __future__ import annotations

import contextlib
import errno
import json
import socket
import struct
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from testbed.faults.site import FaultLab, Site, enforcers_at, run

TABLE = "allowlist"  # enforcer.dataplanes.nft
_LOOKUPS = "allow-"  # its chains that look registrations up, one per kind of VPN
# Connections with a registration's mark (1..2**31-1) become ones that are judged again. Forgetting them instead would let an
# answer under way, which shows no VPN by itself, begin a connection that passes as none.
_ENTRY = "forward"
JUDGE_AGAIN = 0x80000003  # enforcer.decide.OBSERVED
_FORGET = f"ct mark 1-0x7fffffff ct mark set {JUDGE_AGAIN:#x}"
_COMMENT = "fault: allowlist-ignored"
_WATCH_S = 0.2
# linux/netlink.h, linux/netfilter/nfnetlink.h, linux/netfilter/nf_tables.h: NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_NEWRULE
_NETLINK_NETFILTER, _NFNLGRP_NFTABLES, _RULE_MADE = 12, 7, 10 << 8 | 6


@contextmanager
def allowlist_ignored(site: Site, node: str, _arguments: Mapping[str, Any]) -> Iterator[None]:
    """Raises RuntimeError when the enforcer's table has no lookups to step over (another dataplane, or not started)."""
    enforcers_at(site, node)
    lab = site.lab
    healed = threading.Event()
    with _rule_changes(lab, node) as changes:
        watch = threading.Thread(target=_watch, args=(lab, node, changes, healed), name=f"fault-{node}")
        try:
            if not _step_over(lab, node):
                raise RuntimeError(
                    f"{node}: table inet {TABLE} has no chain {_LOOKUPS}*; this fault needs the nft dataplane, applied"
                )
            watch.start()
            yield
        finally:
            healed.set()
            if watch.ident is not None:
                watch.join()
            _heal(lab, node)


def _watch(lab: FaultLab, node: str, changes: socket.socket, healed: threading.Event) -> None:
    """The agent writes its lookups anew when an update brings a new kind of entry: the glitch must outlast that."""
    is_due = False
    while not healed.is_set():
        is_due = _has_rule_changes(changes) or is_due
        if is_due:
            with contextlib.suppress(
                RuntimeError, subprocess.TimeoutExpired
            ):  # it may be writing them just now
                _step_over(lab, node)
                is_due = False


@contextlib.contextmanager
def _rule_changes(lab: FaultLab, node: str) -> Iterator[socket.socket]:
    """The kernel's notices of changes to the node's nft rules: asking nft itself over and over would disturb the traffic."""
    with lab.inside(node):
        notices = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER)
    with notices:
        notices.bind((0, 1 << (_NFNLGRP_NFTABLES - 1)))
        notices.settimeout(_WATCH_S)
        yield notices


def _has_rule_changes(notices: socket.socket) -> bool:
    """Wait for the next notices, at most _WATCH_S; True when one is of a rule, or when some were lost."""
    try:
        data = notices.recv(1 << 20)
    except TimeoutError:
        return False
    except OSError as error:
        if error.errno == errno.ENOBUFS:
            return True
        raise
    at = 0
    while at + 16 <= len(data):
        length, kind = struct.unpack_from("=IH", data, at)
        if kind == _RULE_MADE:
            return True
        at += max(16, (length + 3) & ~3)
    return False


def _step_over(lab: FaultLab, node: str) -> int:
    """Put our rules where they are missing, in one transaction; returns how many lookups there are."""
    objects = _table(lab, node)
    chains = [each["chain"]["name"] for each in objects if "chain" in each]
    lookups = [name for name in chains if name.startswith(_LOOKUPS)]
    done = {chain for chain, _handle in _ours(objects)}
    wanted = dict.fromkeys(lookups, "return") | {_ENTRY: _FORGET} if lookups else {}
    commands = [
        f'insert rule inet {TABLE} {chain} {rule} comment "{_COMMENT}"'
        for chain, rule in wanted.items()
        if chain not in done
    ]
    if commands:
        run(lab, node, ["nft", "; ".join(commands)])
    return len(lookups)


def _heal(lab: FaultLab, node: str) -> None:
    """Take our rules out again; a table the agent has rebuilt meanwhile has none."""
    rules = _ours(_table(lab, node))
    if rules:
        commands = [f"delete rule inet {TABLE} {chain} handle {handle}" for chain, handle in rules]
        run(lab, node, ["nft", "; ".join(commands)])


def _ours(objects: list[dict[str, Any]]) -> list[tuple[str, int]]:
    rules = [each["rule"] for each in objects if "rule" in each]
    return [(rule["chain"], rule["handle"]) for rule in rules if rule.get("comment") == _COMMENT]


def _table(lab: FaultLab, node: str) -> list[dict[str, Any]]:
    """The table's objects, none when there is no table; -t leaves the elements out, which would take seconds."""
    done = lab.cmd(node, ["nft", "-j", "-t", "-a", "list", "table", "inet", TABLE])
    if done.returncode != 0:
        if "No such file or directory" in done.stderr:
            return []
        raise RuntimeError(f"{node}: cannot list table inet {TABLE}: {done.stderr.strip()}")
    return json.loads(done.stdout)["nftables"]
