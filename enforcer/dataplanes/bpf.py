"""The bpf dataplane: a classifier on clsact of the inside interfaces, compiled on first use; maps hold cells, flows, counters.

Cells and the states of ended registrations say what they were before and what they are from a serial on; a delta is written
first and then made visible by one store of the serial into a page the classifier reads. What it cannot do: SHORTCOMINGS.
"""

from __future__ import annotations

import errno
import os
import socket
import sys
import time
from collections.abc import Iterable
from pathlib import Path

from enforcer.allowlist import Allowlist, Delta
from enforcer.cells import Change, Index, changed_ends
from enforcer.dataplanes import Count, DataplaneError, Stop, TableFull, bpf_maps, bpf_source, conntrack
from enforcer.dataplanes.bpf_library import (
    IN,
    MUST_EXIST,
    OUT,
    Library,
    Object,
    Ring,
    attach,
    attached,
    detach,
    earlier_map,
    program_id,
    run,
)
from enforcer.dataplanes.bpf_maps import ACTIVE, CUT, FINISHING, FlowState
from enforcer.dataplanes.bpf_tables import Tables
from enforcer.decide import CLEAR, REVOKED, Fallback, Lookup
from enforcer.policy import Policy
from enforcer.protocols import VPN_PROTOCOLS

SHORTCOMINGS = (
    "actions drop and observe; reject and police are refused at start",
    "it governs what passes an inside interface; packets from one outside interface to another are not looked at",
    "packets are seen before the kernel puts fragments together: a later fragment passes, only the first is judged",
    "the least recently used of more than `most_flows` flows is forgotten and judged anew",
)
MOST_CELLS = 2_000_000
MOST_FLOWS = 262_144

# Only the first network namespace shows it.
_JIT = Path("/proc/sys/net/core/bpf_jit_enable")
_TRANSPORTS = {6: "tcp", 17: "udp", 50: "esp", 51: "ah", 47: "gre", 1: "icmp", 58: "icmpv6", 255: "0"}


class BpfDataplane:
    """On these interfaces of the network namespace it is made in; they may come later than this, not later than `load`.

    cache: the folder of compiled classifiers (bpf_source.compiled). Raises DataplaneError when something is missing or the
    policy wants what it does not offer.
    """

    name = "bpf"

    def __init__(
        self,
        policy: Policy,
        inside: Iterable[str],
        most_cells: int = MOST_CELLS,
        most_flows: int = MOST_FLOWS,
        cache: Path | None = None,
    ) -> None:
        self._inside = tuple(inside)
        refuse(policy, self._inside)
        self._policy, self._most_cells = policy, most_cells
        self._library = Library()
        self._library.quiet()
        try:
            self._object = Object(self._library, bpf_source.compiled(policy, cache))
            Tables.resize(self._object, most_cells)
            is_successor = self._take_over_flows()
            if not is_successor:
                self._object.resize("flows", most_flows)
            self._object.load()
        except OSError as error:
            raise DataplaneError(_no_load(error)) from error
        cpus = self._library.call("libbpf_num_possible_cpus")
        self._tables = Tables(self._object)
        self._flows = self._object.map("flows", bpf_maps.FLOW_KEY_BYTES, bpf_maps.FLOW_BYTES)
        self._sweeping = self._object.map("sweeping", 4, 4)
        self._sweep_program = self._object.program("allowlist_sweep")
        self._counts = self._object.map("counts", 4, bpf_maps.COUNT_BYTES * cpus)
        self._insides = self._object.map("insides", 4, 4)
        self._ring = Ring(self._library, self._object.map("events", 0, 0).fd)
        self._programs = {
            IN: self._object.program("allowlist_in"),
            OUT: self._object.program("allowlist_out"),
        }
        self._index = Index(policy.match)
        self._attached: dict[str, int] = {}
        self._has_old_flows = is_successor

    @property
    def lookup(self) -> Lookup:
        return self._index

    def load(self, allowlist: Allowlist) -> None:
        index, tables = Index(self._policy.match, allowlist.entries.values()), self._tables
        self._check_size(index)
        self._check_interfaces()
        old = self._index
        written = tables.write(index)
        states = {number: CUT for number in old.entries if number not in index.entries}
        if self._has_old_flows:
            marks = {flow.mark for flow in self._flow_states()}
            states |= {mark: CUT for mark in marks if mark < CLEAR and mark not in index.entries}
        states |= {
            number: ACTIVE if number in index.entries else state for number, state in tables.states.items()
        }
        before = tables.replace(index, written, states)
        changed = changed_ends(old, index)
        self._index, self._has_old_flows = index, False
        tables.take_out(old, before)
        self._attach()
        if changed:
            self._recheck(changed)

    def apply(self, delta: Delta) -> None:
        entries = self._index.entries
        gone = {removal.registration for removal in delta.remove} & entries.keys()
        added = {entry.registration for entry in delta.add}
        removed = [entries[number] for number in (gone | added) & entries.keys()]
        live = CUT if self._policy.live_flows == "cut" else FINISHING
        known = self._tables.states
        # A registration that has new ends may have live flows at its old ones.
        rechecked = added & (known.keys() | {entry.registration for entry in removed})
        states = dict.fromkeys(gone - added, live) | dict.fromkeys(added & known.keys(), ACTIVE)
        changes: list[Change] = []
        try:
            for entry in removed:
                changes += self._index.remove(entry.registration)
            for entry in delta.add:
                changes += self._index.add(entry)
            self._check_size(self._index)
            self._tables.change(self._index, changes, states)
        except DataplaneError:
            for entry in delta.add:
                self._index.remove(entry.registration)
            for entry in removed:
                self._index.add(entry)
            raise
        if rechecked:
            self._recheck(rechecked)

    def revoke(self, registrations: Iterable[int]) -> None:
        ending = [number for number in registrations if number not in self._index.entries]
        if ending:
            self._tables.revise(dict.fromkeys(ending, CUT))

    def set_fallback(self, fallback: Fallback) -> None:
        self._tables.set_fallback(fallback)

    def beat(self) -> None:
        self._tables.alive_until(time.monotonic_ns() + self._policy.on_failure.agent_dead_after_ns)

    def sweep(self) -> int:
        """The flows keep an entry whose mark stops them, for in the middle of a flow nothing shows what it is."""
        tables = self._tables
        cut = [number for number, state in tables.states.items() if state == CUT]
        swept = 0
        if cut or tables.has_dead:
            tables.purge()  # waits for packets that were judged before; none of them gives a flow one of these numbers any more
        for start in range(0, len(cut), bpf_maps.MOST_SWEPT):
            some = b"".join(
                number.to_bytes(4, sys.byteorder) for number in cut[start : start + bpf_maps.MOST_SWEPT]
            )
            self._sweeping.put_many(some, bytes(len(some)))
            swept += run(self._library, self._sweep_program)
            self._sweeping.delete_many(some)
        if cut:
            tables.revise(dict.fromkeys(cut, ACTIVE))
        return swept

    def counters(self) -> dict[str, Count]:
        return {name: Count(*self._count(number)) for number, name in enumerate(bpf_source.COUNTERS)}

    def is_alive(self) -> bool:
        return bool(self._attached) and all(map(self._is_attached, self._inside))

    def fileno(self) -> int:
        return self._ring.fileno()

    def events(self) -> list[Stop]:
        offset_ns = time.time_ns() - time.monotonic_ns()
        return [_stop(bpf_maps.event(data), offset_ns) for data in self._ring.read()]

    def lost_events(self) -> int:
        return self._count(len(bpf_source.COUNTERS))[0]

    def close(self, remove: bool = False) -> None:
        if remove:
            for ifindex in self._attached.values():
                for point in (IN, OUT):
                    detach(self._library, ifindex, point)
        self._ring.close()
        self._tables.close()
        self._object.close()

    def _take_over_flows(self) -> bool:
        """What an earlier agent's classifier, still in force, knows of flows: in their middle nothing shows what they are."""
        for name in self._inside:
            try:
                ifindex = socket.if_nametoindex(name)
            except OSError:
                continue
            sizes = (bpf_maps.FLOW_KEY_BYTES, bpf_maps.FLOW_BYTES)
            found = earlier_map(self._library, ifindex, "flows", *sizes)
            if found is not None:
                self._object.reuse("flows", found)
                os.close(found)
                return True
        return False

    def _count(self, number: int) -> tuple[int, int]:
        return bpf_maps.count(self._counts.get(number.to_bytes(4, sys.byteorder)) or b"")

    def _check_size(self, index: Index) -> None:
        if index.count() > self._most_cells:
            raise TableFull(
                f"the allowlist has {index.count()} cells; this dataplane takes at most {self._most_cells}"
            )

    def _check_interfaces(self) -> None:
        for name in self._inside:
            try:
                socket.if_nametoindex(name)
            except OSError as error:
                raise DataplaneError(
                    f"the inside interface {name!r} is not there; make it, or correct `inside`"
                ) from error

    def _attach(self) -> None:
        for name in self._inside:
            if self._is_attached(name):
                continue
            ifindex = socket.if_nametoindex(name)
            self._insides.put(ifindex.to_bytes(4, sys.byteorder), b"\1\0\0\0")
            self._attached[name] = ifindex
            try:
                for point, program in self._programs.items():
                    attach(self._library, ifindex, point, program)
            except OSError as error:
                raise DataplaneError(
                    f"cannot attach to {name}: {error.strerror}; it needs CAP_NET_ADMIN, and NET_CLS_BPF and NET_SCH_INGRESS in the kernel"
                ) from error

    def _is_attached(self, name: str) -> bool:
        try:
            ifindex = socket.if_nametoindex(name)
        except OSError:
            return False
        return self._attached.get(name) == ifindex and all(
            attached(self._library, ifindex, point) == program_id(self._library, program)
            for point, program in self._programs.items()
        )

    def _flow_states(self, marks: set[int] | None = None) -> list[FlowState]:
        """The flows with one of these marks; None: all."""
        return list(bpf_maps.flow_states(self._flows.items(marks)))

    def _mark_revoked(self, flows: Iterable[FlowState]) -> int:
        marked = 0
        for flow in flows:
            try:
                self._flows.put(flow.key, bpf_maps.flow_with_mark(flow.value, REVOKED), MUST_EXIST)
                marked += 1
            except OSError as error:
                if error.errno != errno.ENOENT:
                    raise
        return marked

    def _recheck(self, numbers: set[int]) -> None:
        """Stop live flows of these registrations that their entries no longer cover."""
        self._mark_revoked(
            flow
            for flow in self._flow_states(numbers)
            if not conntrack.names_ends(self._index.entries[flow.mark], self._policy.match, _tracked(flow))
        )


_WHY_NOT = {
    "reject": "a classifier can drop packets; it cannot answer them",
    "police": "the classifier keeps no bucket of tokens for a flow",
}


def refuse(policy: Policy, inside: tuple[str, ...]) -> None:
    """Raises DataplaneError for what this dataplane does not offer."""
    if policy.action in ("reject", "police") and policy.mode != "observe":
        raise DataplaneError(
            f"policy action {policy.action!r} is not offered by bpf; use dataplane: nft, or action: drop ({_WHY_NOT[policy.action]})"
        )
    if not inside:
        raise DataplaneError(
            "the bpf dataplane attaches to the interfaces towards the subscribers; name them: inside: [lan0]"
        )


def _no_load(error: OSError, jit: Path = _JIT) -> str:
    try:
        has_jit = jit.read_text(encoding="ascii").strip() != "0"
    except OSError:  # the setting is there where a JIT is; an ordinary user may not read it
        has_jit = jit.exists()
    if error.errno == errno.EINVAL and not has_jit:
        return (
            f"the kernel refuses the classifier ({error}): it seems to run BPF programs without a JIT compiler, and then they may have no "
            "callbacks; turn it on (sysctl net.core.bpf_jit_enable=1, kernel option CONFIG_BPF_JIT), or use dataplane: nft"
        )
    if error.errno == errno.EPERM:
        return (
            f"the kernel does not let this user load BPF programs ({error.strerror}); run it as root (CAP_SYS_ADMIN, CAP_NET_ADMIN "
            "of the first user namespace), or use dataplane: nft"
        )
    return f"the kernel's verifier refuses the classifier ({error}); it needs Linux 5.17 with BTF; or use dataplane: nft"


def _tracked(flow: FlowState) -> conntrack.Tracked:
    return conntrack.Tracked(
        flow.version, flow.protocol, flow.a, flow.a_port, flow.b, flow.b_port, flow.mark, 0, b"", None
    )


def _stop(event: bpf_maps.Event, offset_ns: int) -> Stop:
    return Stop(
        event.monotonic_ns + offset_ns,
        bpf_source.STOP_REASONS[event.reason],
        VPN_PROTOCOLS[event.vpn] if event.vpn < len(VPN_PROTOCOLS) else None,
        _TRANSPORTS.get(event.protocol, str(event.protocol)),
        event.src,
        event.src_port,
        event.dst,
        event.dst_port,
        _interface(event.inside),
        _interface(event.outside),
    )


def _interface(index: int) -> str:
    try:
        return socket.if_indextoname(index) if index else ""
    except OSError:  # the interface is gone
        return ""
