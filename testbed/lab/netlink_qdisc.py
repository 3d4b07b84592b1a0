"""Queueing disciplines as netlink requests: HTB, TBF and netem, added or changed in place; and what the kernel has.

Each returns Requests for `Netlink.batch`. change=True alters an existing one without a packet lost or reordered by the
change itself (`tc qdisc change`); deleting and adding again would drop its queue. Structures:
include/uapi/linux/pkt_sched.h; the kernel's clock for packet scheduling ticks every 64 ns (PSCHED_SHIFT, pkt_sched.h).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from testbed.lab.netlink import (
    NLM_F_CREATE,
    NLM_F_EXCL,
    Netlink,
    Request,
    attribute,
    attributes,
    nested,
    text,
    u32,
)

ROOT = 0xFFFFFFFF

_RTM_NEWQDISC, _RTM_DELQDISC, _RTM_GETQDISC = 36, 37, 38
_RTM_NEWTCLASS, _RTM_GETTCLASS = 40, 42
_TCA_KIND, _TCA_OPTIONS, _TCA_STATS2 = 1, 2, 7
_TCA_STATS_BASIC, _TCA_STATS_QUEUE = 1, 3
_TCA_TBF_PARMS, _TCA_TBF_RATE64, _TCA_TBF_BURST = 1, 4, 6
_TCA_HTB_PARMS, _TCA_HTB_INIT, _TCA_HTB_RATE64, _TCA_HTB_CEIL64 = 1, 2, 6, 7
_TCA_NETEM_RATE, _TCA_NETEM_RATE64 = 6, 8
_TCA_NETEM_LATENCY64, _TCA_NETEM_JITTER64, _TCA_NETEM_PRNG_SEED = 10, 11, 14
_TCA_FIFO_OPTIONS = struct.Struct("=I")
_TCMSG = struct.Struct("=BxxxiIII")
# struct tc_ratespec: cell_log, linklayer, overhead, cell_align, mpu, rate. A set linklayer (1, Ethernet) tells the
# kernel that no rate table follows (net/sched/sch_api.c, qdisc_get_rtab's callers).
_RATE = struct.Struct("=BBHhHI")
_LINKLAYER_ETHERNET = 1
_TICK_NS = 64
_U32_MAX = 0xFFFFFFFF
_HTB_VERSION = 3
# TBF cuts a segment that its bucket cannot hold into packets; a bucket of the largest one (GSO, 65,536 bytes and
# headers) keeps segments whole. HTB lets its bucket go below zero, so two frames are enough.
_TBF_BURST_BYTES = 68_000
_HTB_BURST_BYTES = 3_028
# At least this much of the rate in the bucket, so that timer slack does not cost throughput.
_BURST_S = 0.002


@dataclass(frozen=True, slots=True)
class QdiscState:
    """A qdisc as the kernel has it: handle and parent as numbers (major << 16 | minor), and its counters."""

    kind: str
    handle: int
    parent: int
    options: bytes
    sent_bytes: int
    sent_packets: int
    dropped_packets: int
    queued_packets: int


def qdisc_tbf(
    index: int,
    rate_bps: int,
    what: str,
    *,
    queue_bytes: int,
    burst_bytes: int | None = None,
    parent: int = ROOT,
    handle: int = 0x10000,
    change: bool = False,
) -> Request:
    """A token bucket: rate_bps is the rate of whole Ethernet frames; queue_bytes may wait, more is dropped.

    burst_bytes (default: one GSO segment, or 2 ms of the rate if more) pass at line rate after a pause.
    """
    rate_byte_s = _byte_rate(rate_bps, what)
    burst = burst_bytes or burst_for(rate_bps, _TBF_BURST_BYTES)
    buffer = _ticks(burst * 1_000_000_000 // rate_byte_s)
    parms = _RATE.pack(0, _LINKLAYER_ETHERNET, 0, -1, 0, min(rate_byte_s, _U32_MAX)) + bytes(_RATE.size)
    parms += struct.pack("=III", queue_bytes + burst, buffer, 0)
    options = attribute(_TCA_TBF_PARMS, parms) + u32(_TCA_TBF_BURST, burst)
    if rate_byte_s > _U32_MAX:
        options += attribute(_TCA_TBF_RATE64, struct.pack("=Q", rate_byte_s))
    return _qdisc(index, "tbf", parent, handle, options, what, change)


def qdisc_htb(
    index: int,
    rate_bps: int,
    what: str,
    *,
    burst_bytes: int | None = None,
    parent: int = ROOT,
    handle: int = 0x10000,
    change: bool = False,
) -> list[Request]:
    """An HTB with one class (handle:1) that all traffic goes through; put a child qdisc at parent=handle | 1.

    change=True changes the class's rate; the qdisc stays.
    """
    # struct tc_htb_glob: version, rate2quantum, defcls, debug, direct_pkts.
    glob = struct.pack("=IIIII", _HTB_VERSION, 10, 1, 0, 0)
    root = _qdisc(index, "htb", parent, handle, attribute(_TCA_HTB_INIT, glob), what, False)
    class_ = _htb_class(
        index, rate_bps, what, burst_bytes or burst_for(rate_bps, _HTB_BURST_BYTES), handle, change
    )
    return [class_] if change else [root, class_]


def qdisc_netem(
    index: int,
    delay_ns: int,
    jitter_ns: int,
    loss_ratio: float,
    what: str,
    *,
    limit_packets: int,
    parent: int = ROOT,
    handle: int = 0x20000,
    seed: int | None = None,
    change: bool = False,
    keeps_order: bool = False,
) -> Request:
    """Delay (one-way, uniform within ±jitter_ns) and independent loss. A kernel without netem refuses it (ENOENT).

    Jitter puts packets in another order, as netem's own does, unless keeps_order. seed needs Linux 6.6; older kernels ignore it.
    limit_packets is how many may be on the way at once.
    """
    if not 0 <= loss_ratio <= 1:
        raise ValueError(f"{what}: loss ratio {loss_ratio} is outside 0..1")
    loss = round(loss_ratio * _U32_MAX)
    # struct tc_netem_qopt: latency, limit, loss, gap, duplicate, jitter. The 64-bit nanoseconds below take precedence.
    options = struct.pack(
        "=IIIIII",
        min(_ticks(delay_ns), _U32_MAX),
        limit_packets,
        loss,
        0,
        0,
        min(_ticks(jitter_ns), _U32_MAX),
    )
    options += attribute(_TCA_NETEM_LATENCY64, struct.pack("=q", delay_ns))
    options += attribute(_TCA_NETEM_JITTER64, struct.pack("=q", jitter_ns))
    if keeps_order:
        # With a rate of its own netem never sends a packet before the one in front of it (sch_netem.c, netem_enqueue);
        # at a terabyte a second the rate itself adds nothing.
        options += attribute(_TCA_NETEM_RATE, struct.pack("=IiIi", _U32_MAX, 0, 0, 0))
        options += attribute(_TCA_NETEM_RATE64, struct.pack("=Q", 10**12))
    if seed is not None:
        options += attribute(_TCA_NETEM_PRNG_SEED, struct.pack("=Q", seed))
    return _qdisc(index, "netem", parent, handle, options, what, change)


def qdisc_bfifo(
    index: int, queue_bytes: int, what: str, *, parent: int, handle: int = 0x30000, change: bool = False
) -> Request:
    """A queue of at most queue_bytes."""
    return _qdisc(index, "bfifo", parent, handle, _TCA_FIFO_OPTIONS.pack(queue_bytes), what, change)


def qdisc_delete(index: int, what: str, *, parent: int = ROOT) -> Request:
    """Remove the qdisc at parent, with all beneath it."""
    return Request(_RTM_DELQDISC, 0, _TCMSG.pack(0, index, 0, parent, 0), what)


def burst_for(rate_bps: int, floor_bytes: int) -> int:
    """A bucket size in bytes: 2 ms of the rate, at least floor_bytes."""
    return max(floor_bytes, int(rate_bps * _BURST_S / 8))


def qdiscs(netlink: Netlink, index: int | None = None) -> list[QdiscState]:
    """The qdiscs of an interface (None: of all)."""
    found: list[QdiscState] = []
    for answer in netlink.dump(_RTM_GETQDISC, _TCMSG.pack(0, index or 0, 0, 0, 0)):
        _family, at, handle, parent, _info = _TCMSG.unpack_from(answer.body)
        if index is not None and at != index:
            continue
        values = attributes(answer.body[_TCMSG.size :])
        statistics = attributes(values.get(_TCA_STATS2, b""))
        sent_bytes, sent_packets = struct.unpack_from("=QI", statistics.get(_TCA_STATS_BASIC, bytes(12)))
        queued, _backlog, dropped = struct.unpack_from("=III", statistics.get(_TCA_STATS_QUEUE, bytes(12)))
        kind = values[_TCA_KIND].rstrip(b"\0").decode()
        options = values.get(_TCA_OPTIONS, b"")
        found.append(QdiscState(kind, handle, parent, options, sent_bytes, sent_packets, dropped, queued))
    return found


def _qdisc(
    index: int, kind: str, parent: int, handle: int, options: bytes, what: str, change: bool
) -> Request:
    body = _TCMSG.pack(0, index, handle, parent, 0) + text(_TCA_KIND, kind) + attribute(_TCA_OPTIONS, options)
    return Request(_RTM_NEWQDISC, 0 if change else NLM_F_CREATE | NLM_F_EXCL, body, what)


def _htb_class(index: int, rate_bps: int, what: str, burst: int, handle: int, change: bool) -> Request:
    rate_byte_s = _byte_rate(rate_bps, what)
    buffer = _ticks(burst * 1_000_000_000 // rate_byte_s)
    rate = _RATE.pack(0, _LINKLAYER_ETHERNET, 0, -1, 0, min(rate_byte_s, _U32_MAX))
    # struct tc_htb_opt: rate, ceil, buffer, cbuffer, quantum, level, prio. One class: the quantum never matters.
    parms = rate + rate + struct.pack("=IIIII", buffer, buffer, 1514, 0, 0)
    inner = attribute(_TCA_HTB_PARMS, parms)
    if rate_byte_s > _U32_MAX:
        inner += attribute(_TCA_HTB_RATE64, struct.pack("=Q", rate_byte_s))
        inner += attribute(_TCA_HTB_CEIL64, struct.pack("=Q", rate_byte_s))
    body = _TCMSG.pack(0, index, handle | 1, handle, 0) + text(_TCA_KIND, "htb") + nested(_TCA_OPTIONS, inner)
    return Request(_RTM_NEWTCLASS, 0 if change else NLM_F_CREATE | NLM_F_EXCL, body, what)


def _byte_rate(rate_bps: int, what: str) -> int:
    if rate_bps < 8:
        raise ValueError(f"{what}: a rate of {rate_bps} bit/s is too low to shape")
    return rate_bps // 8


def _ticks(duration_ns: int) -> int:
    return min(duration_ns // _TICK_NS, _U32_MAX)
