"""The nfqueue dataplane: first packets are decided in Python by `decide` itself, over prefix tries (prefix_index.py); then the flow's
conntrack mark lets it pass.

Portable (iptables with NFQUEUE), and what most people would write first; kept as the comparison. What it cannot do:
see SHORTCOMINGS.

mangle/ALLOWLIST ─ judged by mark ─► on     ─ else: conntrack mark to packet mark ─► queue ─► decide ─► packet mark
table inet allowlist-queue, after it: packet mark to conntrack mark, or reject
"""

from __future__ import annotations

import collections
import contextlib
import os
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Iterable
from dataclasses import replace

from enforcer.allowlist import Allowlist, Delta, Entry
from enforcer.dataplanes import Count, DataplaneError, Stop, TableFull, conntrack
from enforcer.dataplanes.bucket import Buckets
from enforcer.dataplanes.libnft import Nft
from enforcer.dataplanes.netlink import SUBSYSTEM_QUEUE, Netfilter, attribute, attributes, messages
from enforcer.dataplanes.prefix_index import PrefixIndex
from enforcer.decide import CLEAR, EXEMPT, JUDGED_AGAIN, REVOKED, Fallback, Flow, Lookup, Verdict, decide
from enforcer.packet import Packet, parse
from enforcer.policy import Policy

SHORTCOMINGS = (
    "a dead agent cannot keep the allowlist: then every flow that is new passes (agent-dead keep, allow) or none does (block)",
    "a hung agent stops every new flow, VPN or not, until it is killed",
    "a revocation cuts live flows by rewriting their marks, a millisecond or more after the list has changed",
    "it takes the packet mark for itself in the forward path",
    "each packet of a flow that is not judged yet crosses into Python, one at a time",
)
QUEUE = 4747
MOST_CELLS = 2_000_000
_REJECT = 1 << 31 | 0xFF

# linux/netfilter/nfnetlink_queue.h
_PACKET, _VERDICT, _CONFIG = 0, 1, 2
_CFG_CMD, _CFG_PARAMS, _CFG_MAXLEN, _CFG_MASK, _CFG_FLAGS = 1, 2, 3, 4, 5
_CMD_BIND, _COPY_PACKET, _FLAG_FAIL_OPEN, _FLAG_GSO = 1, 2, 1, 4
_HEADER, _VERDICT_HEADER, _MARK, _PAYLOAD = 1, 2, 3, 10
_DROP, _ACCEPT = 0, 1
_SNAP_BYTES = 1600
_MOST_QUEUED = 65536
_CHAIN = "ALLOWLIST"
_LISTINGS = 4  # of the connections, at most, to cut flows
_ASKED_FOR = 16  # registrations whose connections are asked for one by one
_TRANSPORTS = {6: "tcp", 17: "udp", 50: "esp", 51: "ah", 47: "gre"}


class NfqueueDataplane:
    """In the network namespace it is made in; a thread answers the queue. Raises DataplaneError when the kernel lacks something."""

    name = "nfqueue"

    def __init__(self, policy: Policy, queue: int = QUEUE, most_cells: int = MOST_CELLS) -> None:
        self._policy, self._queue, self._most_cells = policy, queue, most_cells
        self._index = PrefixIndex(policy.match)
        self._fallback: Fallback = "keep"
        self._finishing: set[int] = set()
        self._lock = threading.Lock()
        self._counts: collections.Counter[str] = collections.Counter()
        self._bytes: collections.Counter[str] = collections.Counter()
        self._buckets = Buckets(policy.police_bps or 0)
        self._stops: collections.deque[Stop] = collections.deque(maxlen=100_000)
        self._lost = 0
        self._nft = Nft()
        self._conntrack = Netfilter()
        self._socket = self._bind()
        self._event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._is_closing = False
        self._thread = threading.Thread(target=self._answer_for_ever, name="nfqueue", daemon=True)
        self._thread.start()

    @property
    def lookup(self) -> Lookup:
        return self._index

    def load(self, allowlist: Allowlist) -> None:
        index = PrefixIndex(self._policy.match, map(_timeless, allowlist.entries.values()))
        self._check_size(index)
        with self._lock:
            self._index = index
        self._finishing -= index.entries.keys()
        self._install()
        self._cut(None)

    def apply(self, delta: Delta) -> None:
        index = self._index
        gone = {each.registration for each in delta.remove} & index.entries.keys()
        added = {entry.registration for entry in delta.add}
        changed = added & index.entries.keys()
        before = [index.entries[number] for number in gone | changed]
        with self._lock:
            for number in gone | changed:
                index.remove(number)
            for entry in delta.add:
                index.add(_timeless(entry))
            try:
                self._check_size(index)
            except TableFull:
                for number in added:
                    index.remove(number)
                for entry in before:
                    index.add(entry)
                raise
        ended = gone - added
        if self._policy.live_flows == "let-finish" and ended:
            self._finishing |= ended
            self._install()
        elif ended:
            self._cut(ended)
        if self._finishing & added:
            self._finishing -= added
            self._install()
        if changed:
            self._recheck(changed)

    def revoke(self, registrations: Iterable[int]) -> None:
        ending = {number for number in registrations if number not in self._index.entries}
        if self._finishing & ending:
            self._finishing -= ending
            self._install()
        self._cut(ending)

    def set_fallback(self, fallback: Fallback) -> None:
        if fallback != self._fallback:
            self._fallback = fallback
            self._install()

    def beat(self) -> None:
        """The queue has a reader, or it has none: nothing to renew."""

    def sweep(self) -> int:
        return 0

    def counters(self) -> dict[str, Count]:
        packets, sizes = collections.Counter(self._counts), collections.Counter(self._bytes)
        for program in ("iptables-nft", "ip6tables-nft"):
            for line in _run([program, "-t", "mangle", "-nvxL", _CHAIN]).splitlines():
                words = line.split()
                if "/*" in words:
                    reason = words[words.index("/*") + 1]
                    packets[reason] += int(words[0])
                    sizes[reason] += int(words[1])
        return {reason: Count(packets[reason], sizes[reason]) for reason in packets}

    def is_alive(self) -> bool:
        try:
            return self._thread.is_alive() and all(
                "NFQUEUE" in _run([program, "-t", "mangle", "-S", _CHAIN])
                for program in ("iptables-nft", "ip6tables-nft")
            )
        except DataplaneError:
            return False

    def fileno(self) -> int:
        return self._event

    def events(self) -> list[Stop]:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._event)
        stops = []
        while self._stops:
            stops.append(self._stops.popleft())
        return stops

    def lost_events(self) -> int:
        return self._lost

    def close(self, remove: bool = False) -> None:
        self._is_closing = True
        with contextlib.suppress(OSError):
            self._socket.socket.shutdown(socket.SHUT_RDWR)
        self._thread.join(2)
        self._socket.close()
        if remove:
            for program in ("iptables-nft", "ip6tables-nft"):
                _run(
                    [f"{program}-restore", "--noflush"],
                    f"*mangle\n-D FORWARD -j {_CHAIN}\n-F {_CHAIN}\n-X {_CHAIN}\nCOMMIT\n",
                )
            self._nft.run("delete table inet allowlist-queue")
        self._nft.close()
        self._conntrack.close()
        os.close(self._event)

    def _bind(self) -> Netfilter:
        flags = _FLAG_GSO | (_FLAG_FAIL_OPEN if self._policy.on_failure.queue_full == "allow" else 0)
        netfilter = Netfilter()
        netfilter.grow_receive_buffer(32 << 20)
        try:
            for body in (
                attribute(_CFG_CMD, struct.pack("!BBH", _CMD_BIND, 0, 0)),
                attribute(_CFG_PARAMS, struct.pack("!IB", _SNAP_BYTES, _COPY_PACKET)),
                attribute(_CFG_MAXLEN, struct.pack("!I", _MOST_QUEUED)),
                attribute(_CFG_FLAGS, struct.pack("!I", flags))
                + attribute(_CFG_MASK, struct.pack("!I", flags)),
            ):
                netfilter.request(SUBSYSTEM_QUEUE, _CONFIG, socket.AF_UNSPEC, body, resource=self._queue)
        except OSError as error:
            raise DataplaneError(
                f"cannot read NFQUEUE {self._queue}: {error.strerror}; another program reads it, or the kernel lacks "
                "CONFIG_NETFILTER_NETLINK_QUEUE"
            ) from error
        netfilter.socket.settimeout(0.5)
        return netfilter

    def _install(self) -> None:
        """The kernel's side, both families. Counters of rules that are written anew are carried over."""
        with contextlib.suppress(DataplaneError):
            for reason, count in self.counters().items():
                self._counts[reason], self._bytes[reason] = count.packets, count.bytes
        bypass = "" if self._policy.on_failure.agent_dead == "block" else " --queue-bypass"
        rules = [
            f"-m connmark --mark {CLEAR:#x} -m comment --comment not-vpn -j RETURN",
            f"-m connmark --mark {EXEMPT:#x} -m comment --comment exempt -j RETURN",
        ]
        if self._fallback != "block":
            rules += [
                f"-m connmark --mark {number} -m comment --comment finishing -j RETURN"
                for number in sorted(self._finishing)
            ]
            rules.append(
                f"-m connmark ! --mark 0 -m connmark ! --mark {CLEAR:#x}/{CLEAR:#x} -m comment --comment registered -j RETURN"
            )
        rules += ["-j CONNMARK --restore-mark", f"-j NFQUEUE --queue-num {self._queue}{bypass}"]
        for program, icmp in (("iptables-nft", "icmp"), ("ip6tables-nft", "icmpv6")):
            lines = [f"-p {icmp} -m comment --comment not-vpn -j RETURN", *rules]
            there = subprocess.run(
                [program, "-t", "mangle", "-C", "FORWARD", "-j", _CHAIN], capture_output=True
            )
            hook = [] if there.returncode == 0 else [f"-A FORWARD -j {_CHAIN}"]
            script = [
                "*mangle",
                f":{_CHAIN} - [0:0]",
                *(f"-A {_CHAIN} {line}" for line in lines),
                *hook,
                "COMMIT",
                "",
            ]
            _run([f"{program}-restore", "--noflush"], "\n".join(script))
        again = ", ".join(f"{mark:#x}" for mark in (0, *JUDGED_AGAIN))
        self._nft.run(
            "add table inet allowlist-queue\n"
            "add chain inet allowlist-queue after { type filter hook forward priority mangle + 1; policy accept; }\n"
            "flush chain inet allowlist-queue after\n"
            f"add rule inet allowlist-queue after meta mark {_REJECT:#x} meta l4proto tcp reject with tcp reset\n"
            f"add rule inet allowlist-queue after meta mark {_REJECT:#x} reject with icmpx admin-prohibited\n"
            f"add rule inet allowlist-queue after meta mark != 0 ct mark {{ {again} }} ct mark set meta mark meta mark set 0\n"
            "add rule inet allowlist-queue after meta mark != 0 meta mark set 0"
        )

    def _cut(self, numbers: set[int] | None) -> None:
        """Stop the live flows of these registrations (None: of all that are not in the list).

        A listing of a table that changes meanwhile may leave an entry out, so it is repeated, at least once, until nothing is found.
        Few numbers are asked for one by one: the kernel's sieving takes a tenth of the time that reading all of them does.
        """
        marks = [None] if numbers is None or len(numbers) > _ASKED_FOR else sorted(numbers)
        for mark in marks:
            for turn in range(_LISTINGS):
                found = [
                    entry
                    for entry in conntrack.tracked(self._conntrack, mark)
                    if entry.mark < CLEAR
                    and entry.mark not in self._finishing
                    and entry.mark not in self._index.entries
                    and (numbers is None or entry.mark in numbers)
                ]
                for entry in found:
                    conntrack.set_mark(self._conntrack, entry, REVOKED)
                if turn and not found:
                    break

    def _recheck(self, numbers: set[int]) -> None:
        for entry in conntrack.tracked(self._conntrack):
            if entry.mark in numbers and not conntrack.names_ends(
                self._index.entries[entry.mark], self._policy.match, entry
            ):
                conntrack.set_mark(self._conntrack, entry, REVOKED)

    def _check_size(self, index: PrefixIndex) -> None:
        if index.count() > self._most_cells:
            raise TableFull(
                f"the allowlist has {index.count()} cells; this dataplane takes at most {self._most_cells}"
            )

    def _answer_for_ever(self) -> None:
        while not self._is_closing:
            try:
                data = self._socket.socket.recv(1 << 18)
            except TimeoutError:
                continue
            except OSError:
                if self._is_closing:
                    return
                self._lost += 1  # ENOBUFS: packets were lost before they could be decided
                continue
            for kind, _, body in messages(data):
                if kind == SUBSYSTEM_QUEUE << 8 | _PACKET:
                    self._answer(attributes(body[4:]))

    def _answer(self, found: dict[int, bytes]) -> None:
        (number,) = struct.unpack_from("!I", found[_HEADER])
        (mark,) = struct.unpack("!I", found.get(_MARK, b"\0\0\0\0"))
        packet = parse(found.get(_PAYLOAD, b""))
        # Until the kernel has the verdict: one sent after a change of the list would put back the mark that the change cut.
        with self._lock:
            verdict = decide(packet, Flow(mark), self._index, self._policy, time.time_ns(), self._fallback)
            self._note(packet, verdict)
            does_pass = verdict.passes or (verdict.action == "police" and self._buckets.take(packet))
            new_mark = _REJECT if verdict.action == "reject" else verdict.mark
            accepts = does_pass or verdict.action == "reject"
            body = attribute(_VERDICT_HEADER, struct.pack("!II", _ACCEPT if accepts else _DROP, number))
            body += attribute(_MARK, struct.pack("!I", new_mark))
            self._socket.send(SUBSYSTEM_QUEUE, _VERDICT, 0, socket.AF_UNSPEC, self._queue, body)

    def _note(self, packet: Packet, verdict: Verdict) -> None:
        is_stop = verdict.action != "pass"
        name = f"{verdict.reason}.{verdict.protocol or 'unseen'}" if is_stop else verdict.reason
        self._counts[name] += 1
        self._bytes[name] += packet.length
        if is_stop:
            number = packet.protocol or 0
            self._stops.append(
                Stop(
                    time.time_ns(),
                    verdict.reason,
                    verdict.protocol,
                    _TRANSPORTS.get(number, str(number)),
                    packet.src_text,
                    packet.src_port,
                    packet.dst_text,
                    packet.dst_port,
                )
            )
            os.eventfd_write(self._event, 1)


def _timeless(entry: Entry) -> Entry:
    """Its validity is the agent's work, whose clock does not jump; here the wall clock would decide it once more."""
    if not entry.valid_from_ns and entry.valid_until_ns is None:
        return entry
    return replace(entry, valid_from_ns=0, valid_until_ns=None)


def _run(argv: list[str], script: str = "") -> str:
    try:
        done = subprocess.run(argv, input=script, capture_output=True, text=True)
    except FileNotFoundError as error:
        raise DataplaneError(f"{argv[0]} is not here; install iptables (iptables-nft)") from error
    if done.returncode != 0:
        raise DataplaneError(f"{' '.join(argv)}: {done.stderr.strip()}")
    return done.stdout
