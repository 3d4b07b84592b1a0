"""Links as the plan wants them: rate, delay, jitter and loss, each direction on its own, changed in place while running.

Rate: a token bucket (TBF) where each end sends, with a queue of QUEUE_NS behind it. Delay, jitter and loss: netem in front
of the bucket where the kernel has it, else the holder (holder.py). docs/links.md says what each does and does not do.
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

from testbed import command
from testbed.lab.build import Lab
from testbed.lab.holder_placement import DIRECTIONS, Direction, held_links, places
from testbed.lab.holder_process import HolderDied, HolderProcess
from testbed.lab.netlink import NetlinkError, Request
from testbed.lab.netlink_qdisc import ROOT, qdisc_delete, qdisc_netem, qdisc_tbf, qdiscs
from testbed.lab.nfnetlink import NfnetlinkError
from testbed.plan.plan import Link

Backend = Literal["netem", "nfqueue"]

# What waits behind a full link before packets are dropped, in time at the link's rate: about the buffer of the access and
# border routers this lab stands for (docs/links.md), never less than 32 full frames.
QUEUE_NS = 100_000_000
_QUEUE_FRAMES = 32
FRAME_BYTES = 1514
# The bucket: two milliseconds of the rate, at least two frames, so that timer slack costs no throughput and a pause earns little.
BURST_NS = 2_000_000
_UNLIMITED_BPS = 100_000_000_000
_TBF_HANDLE, _NETEM_HANDLE = 0x10000, 0x20000
# Packets on their way at once on a netem link, as the holder's QUEUE_PACKETS.
_NETEM_PACKETS = 50_000
_LOOPBACK_INDEX = 1


class LinksUnavailable(RuntimeError):
    """The kernel cannot shape links the way that was asked for; the text says what to do."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What one direction of a link is set to at this moment; rate_bps None: not limited."""

    rate_bps: int | None
    delay_ns: int
    jitter_ns: int
    loss_ratio: float


class Links:
    """The links of a lab. also_held: names of links without delay, jitter and loss that may be given some later.

    Links the plan's events name are prepared anyway. `backend` is what was asked for; after start() what is used.
    """

    def __init__(
        self, lab: Lab, backend: Literal["auto"] | Backend = "auto", *, also_held: Collection[str] = ()
    ) -> None:
        if backend not in ("auto", "netem", "nfqueue"):
            raise ValueError(f"link backend '{backend}' is unknown; use auto, netem or nfqueue")
        self.backend: Literal["auto"] | Backend = backend
        self._lab = lab
        self._lock = threading.Lock()
        self._holder: HolderProcess | None = None
        held = {link.name for link in held_links(lab.plan)} | set(also_held)
        self._held = [link for link in lab.plan.links if link.name in held]
        self._shapes: dict[tuple[str, Direction], Shape] = {
            (link.name, direction): Shape(link.rate_bps, link.delay_ns, link.jitter_ns, link.loss_ratio)
            for link in lab.plan.links
            for direction in DIRECTIONS
        }
        self._limited: set[tuple[str, Direction]] = set()
        self._has_netem: set[tuple[str, Direction]] = set()

    def start(self) -> None:
        """Shape every link. Raises LinksUnavailable, or NetlinkError naming the link the kernel refused."""
        if self.backend != "nfqueue":
            has_netem = self._kernel_has_netem()
            if self.backend == "netem" and not has_netem:
                raise LinksUnavailable(
                    "this kernel has no netem (CONFIG_NET_SCH_NETEM); use '--links nfqueue' or '--links auto', which hold "
                    "packets in a program instead, or load the module (Ubuntu: apt install linux-modules-extra-$(uname -r))"
                )
            self.backend = "netem" if has_netem else "nfqueue"
        if self.backend == "nfqueue" and self._held:
            self._start_holder()
        requests: dict[str, list[Request]] = {}
        for link in self._lab.plan.links:
            for direction in DIRECTIONS:
                node = _sender(link, direction).node
                requests.setdefault(node, []).extend(self._initial(link, direction))
        for node, batch in requests.items():
            if batch:
                with self._lab.netlink(node) as connection:
                    connection.batch(batch)

    def shape(self, link: str, direction: Direction) -> Shape:
        """What the direction ("ab": what a sends) is set to now. Raises KeyError for an unknown link."""
        return self._shapes[link, direction]

    def change(
        self,
        link_name: str,
        *,
        delay_ns: int | None = None,
        jitter_ns: int | None = None,
        loss_ratio: float | None = None,
        rate_bps: int | None = None,
        direction: Direction | None = None,
    ) -> None:
        """Change what is given, in one direction or (None) both, without a packet lost or reordered by the change itself.

        rate_bps 0 lifts the limit. Raises ValueError for a wrong figure or a link that was not prepared, KeyError for
        an unknown link, HolderDied.
        """
        link = self._lab.link(link_name)
        wanted = {
            "delay_ns": delay_ns,
            "jitter_ns": jitter_ns,
            "loss_ratio": loss_ratio,
            "rate_bps": rate_bps,
        }
        given = {key: value for key, value in wanted.items() if value is not None}
        for key, value in given.items():
            if value < 0 or (key == "loss_ratio" and value > 1):
                raise ValueError(
                    f"link {link_name}: {key} {value} is out of range; use 0 or more (loss_ratio: 0 to 1)"
                )
        holds = {key: value for key, value in given.items() if key != "rate_bps"}
        if any(holds.values()) and link not in self._held:
            raise ValueError(
                f"link {link_name} was not prepared for delay, jitter or loss; give it a delay in the topology, "
                "name it in an event of the scenario, or pass also_held"
            )
        with self._lock:
            for each in (direction,) if direction else DIRECTIONS:
                shape = replace(self._shapes[link_name, each], **given)
                if shape.rate_bps == 0:
                    shape = replace(shape, rate_bps=None)
                self._apply(link, each, shape, is_rate_given=rate_bps is not None, is_hold_given=bool(holds))
                self._shapes[link_name, each] = shape

    def counters(self) -> dict[str, Any]:
        """backend; by "LINK/DIRECTION": packets, lost (by the loss asked for), queue_full, waiting, rate_dropped; the
        holder's lateness_ns percentiles, overflows, cpu_s. Raises HolderDied."""
        found: dict[str, Any] = {"backend": self.backend, "links": {}}
        if self._holder is not None:
            found.update(self._holder.counters())
        for key, counters in self._qdisc_counters():
            found["links"].setdefault(key, {}).update(counters)
        return found

    def health(self) -> list[str]:
        """A sentence for each part that died; empty when all is well."""
        return self._holder.health() if self._holder is not None else []

    @property
    def holder_pid(self) -> int | None:
        return self._holder.pid if self._holder is not None else None

    def close(self) -> None:
        """Let go of what is held. The lab's end removes the rest."""
        if self._holder is not None:
            self._holder.close()
            self._holder = None

    def _start_holder(self) -> None:
        plan = self._lab.plan
        enforcing = {placement.node for placement in plan.enforcers}
        where = places(self._held, {node.name: node for node in plan.nodes}, enforcing)
        settings = {
            place.name: {
                "delay_ns": shape.delay_ns,
                "jitter_ns": shape.jitter_ns,
                "loss_ratio": shape.loss_ratio,
            }
            for place in where
            for shape in (self._shapes[place.link, place.direction],)
        }
        try:
            self._holder = HolderProcess(self._lab, where, settings, plan.seed)
        except NfnetlinkError as error:
            raise LinksUnavailable(
                f"this kernel can neither delay packets with netem nor hold them in a queue ({error}); it needs "
                "CONFIG_NETFILTER_NETLINK_QUEUE and one of CONFIG_NFT_QUEUE, CONFIG_NETFILTER_XT_TARGET_NFQUEUE "
                f"with CONFIG_NFT_COMPAT; '{command()} doctor' lists what is there"
            ) from error

    def _initial(self, link: Link, direction: Direction) -> Iterator[Request]:
        key: tuple[str, Direction] = (link.name, direction)
        shape = self._shapes[key]
        if self.backend == "netem" and link in self._held:
            self._has_netem.add(key)
            yield self._netem(link, direction, shape, change=False)
        if shape.rate_bps:
            self._limited.add(key)
            yield self._bucket(link, direction, shape.rate_bps, change=False)

    def _apply(
        self, link: Link, direction: Direction, shape: Shape, *, is_rate_given: bool, is_hold_given: bool
    ) -> None:
        key = (link.name, direction)
        batch: list[Request] = []
        if is_hold_given and self._holder is not None and link in self._held:
            self._holder.set(
                f"{link.name}/{direction}",
                delay_ns=shape.delay_ns,
                jitter_ns=shape.jitter_ns,
                loss_ratio=shape.loss_ratio,
            )
        elif is_hold_given and key in self._has_netem:
            batch.append(self._netem(link, direction, shape, change=True))
        if is_rate_given and (shape.rate_bps or key in self._limited):
            batch.append(
                self._bucket(link, direction, shape.rate_bps or _UNLIMITED_BPS, change=key in self._limited)
            )
            self._limited.add(key)
        if batch:
            with self._lab.netlink(_sender(link, direction).node) as connection:
                connection.batch(batch)

    def _netem(self, link: Link, direction: Direction, shape: Shape, *, change: bool) -> Request:
        return qdisc_netem(
            self._index(link, direction),
            shape.delay_ns,
            shape.jitter_ns,
            shape.loss_ratio,
            f"link {link.name}/{direction}: delay, jitter, loss",
            limit_packets=_NETEM_PACKETS,
            handle=_NETEM_HANDLE,
            seed=self._lab.plan.seed + list(self._shapes).index((link.name, direction)),
            change=change,
            keeps_order=True,
        )

    def _bucket(self, link: Link, direction: Direction, rate_bps: int, *, change: bool) -> Request:
        return qdisc_tbf(
            self._index(link, direction),
            rate_bps,
            f"link {link.name}/{direction}: rate",
            queue_bytes=queue_bytes(rate_bps),
            burst_bytes=burst_bytes(rate_bps),
            parent=_NETEM_HANDLE | 1 if (link.name, direction) in self._has_netem else ROOT,
            handle=_TBF_HANDLE,
            change=change,
        )

    def _index(self, link: Link, direction: Direction) -> int:
        sender = _sender(link, direction)
        return self._lab.port(sender.node, sender.name).index

    def _qdisc_counters(self) -> Iterator[tuple[str, dict[str, int]]]:
        by_node: dict[str, dict[int, str]] = {}
        for link in self._lab.plan.links:
            for direction in DIRECTIONS:
                if (link.name, direction) in self._limited | self._has_netem:
                    names = by_node.setdefault(_sender(link, direction).node, {})
                    names[self._index(link, direction)] = f"{link.name}/{direction}"
        for node, names in by_node.items():
            with self._lab.netlink(node) as connection:
                for index, name in names.items():
                    for state in qdiscs(connection, index):
                        if state.kind == "tbf":
                            yield name, {"rate_dropped": state.dropped_packets}
                        elif state.kind == "netem":
                            yield (
                                name,
                                {
                                    "packets": state.sent_packets + state.dropped_packets,
                                    "lost": state.dropped_packets,
                                    "waiting": state.queued_packets,
                                },
                            )

    def _kernel_has_netem(self) -> bool:
        node = self._lab.plan.nodes[0].name
        with self._lab.netlink(node) as connection:
            what = f"node {node}: try netem on lo"
            try:
                connection.batch([qdisc_netem(_LOOPBACK_INDEX, 0, 0, 0.0, what, limit_packets=1000)])
            except NetlinkError as error:
                if error.errno in (errno.ENOENT, errno.EOPNOTSUPP, errno.EPERM):
                    return False
                raise
            connection.batch([qdisc_delete(_LOOPBACK_INDEX, what)])
        return True


def queue_bytes(rate_bps: int) -> int:
    """How much may wait behind a link of this rate."""
    return max(_QUEUE_FRAMES * FRAME_BYTES, rate_bps * QUEUE_NS // 8_000_000_000)


def burst_bytes(rate_bps: int) -> int:
    """How much may pass at once after a pause."""
    return max(2 * FRAME_BYTES, rate_bps * BURST_NS // 8_000_000_000)


def _sender(link: Link, direction: Direction):
    return link.a if direction == "ab" else link.b


__all__ = ["HolderDied", "Links", "LinksUnavailable", "Shape", "burst_bytes", "queue_bytes"]
