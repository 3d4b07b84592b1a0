"""An agent on a bench: a dataplane that only holds what it is told, and a clock and a feed in the test's hands."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from importlib.resources import files

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from enforcer.agent import Agent
from enforcer.allowlist import Allowlist, Delta, Entry
from enforcer.audit import Audit
from enforcer.cells import Index
from enforcer.clock import Clock
from enforcer.config import Config
from enforcer.dataplanes import Count, DataplaneError, Stop
from enforcer.policy import parse_policy
from enforcer.registry.feed import delta_body, sign, snapshot_body

STRICT = parse_policy((files("enforcer") / "policies" / "registered-pairs.policy.yaml").read_text())
KEY = Ed25519PrivateKey.generate()
S = 1_000_000_000


@dataclass
class FakeDataplane:
    """Holds what a real one would hold; `broken` is raised by the next change."""

    name: str = "fake"
    held: dict[int, Entry] = field(default_factory=dict)
    live_cut: set[int] = field(default_factory=set)
    fallback: str = "keep"
    loads: int = 0
    broken: DataplaneError | None = None
    alive: bool = True
    stops: list[Stop] = field(default_factory=list)

    def _change(self):
        if self.broken is not None:
            raise self.broken

    @property
    def lookup(self):
        return Index("subscriber+endpoint", self.held.values())

    def load(self, allowlist):
        self._change()
        self.held = dict(allowlist.entries)
        self.loads += 1
        self.alive = True

    def apply(self, delta):
        self._change()
        for removal in delta.remove:
            self.held.pop(removal.registration, None)
        for entry in delta.add:
            self.held[entry.registration] = entry

    def revoke(self, registrations):
        self.live_cut |= set(registrations)

    def set_fallback(self, fallback):
        self.fallback = fallback

    def beat(self):
        pass

    def sweep(self):
        return 0

    def counters(self):
        return {"registered": Count(3, 300)}

    def is_alive(self):
        return self.alive

    def fileno(self):
        return -1

    def events(self):
        stops, self.stops = self.stops, []
        return stops

    def lost_events(self):
        return 0

    def close(self, remove=False):
        pass


class Bench:
    """An agent with a clock that is set by hand, and what it wrote."""

    def __init__(self, folder, policy=STRICT, dataplane=None):
        self.now_ns = 1_700_000_000 * S
        self.dataplane = dataplane or FakeDataplane()
        self.path = folder / "audit.jsonl"
        config = Config(
            file=folder / "enforcer.yaml",
            policy=folder / "p",
            dataplane="nft",
            feed_url="http://192.0.2.1/feed",
            feed_key=folder / "k",
            poll_ns=S,
            state=folder / "state",
            audit=self.path,
            control=folder / "c",
            inside=(),
            outside=(),
            log_group=1,
            most_cells=1,
        )
        self.clock_ahead_ns = 0
        audit = Audit(self.path, realtime_ns=lambda: self.now_ns)
        clock = Clock(lambda: self.now_ns + self.clock_ahead_ns, lambda: self.now_ns)
        self.agent = Agent(config, policy, self.dataplane, KEY.public_key(), audit, clock)
        self.agent.start()

    def snapshot(self, serial, *entries, key=KEY, issued_ns=None):
        listing = Allowlist(serial, {entry.registration: entry for entry in entries})
        return self.agent.take(sign(snapshot_body(listing, issued_ns or self.now_ns), key).encode())

    def delta(self, before, after, add=(), remove=(), key=KEY):
        body = delta_body(Delta(before, after, tuple(add), tuple(remove)), self.now_ns)
        return self.agent.take(sign(body, key).encode())

    def pass_time(self, seconds):
        self.now_ns += int(seconds * S)
        self.agent.tick()

    def lines(self, kind=None):
        # The last one is being written, or empty.
        lines = [json.loads(line) for line in self.path.read_text().split("\n")[:-1]]
        return [line for line in lines if kind in (None, line["kind"])]

    def failures(self):
        return [(line["condition"], line["state"], line["behaviour"]) for line in self.lines("failure")]


def entry(number, **changes):
    values = {
        "registration": number,
        "registrant": f"r{number}",
        "subscriber_prefixes": (f"10.0.{number >> 8}.{number & 255}/32",),
        "endpoint_prefixes": ("198.51.100.9/32",),
    }
    return Entry(**(values | changes))


def on_failure(**changes):
    return replace(STRICT, on_failure=replace(STRICT.on_failure, **changes))
